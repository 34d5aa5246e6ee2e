"""Rows whose clients train the model itself: Flower's FedAvg and FedProx, ensembles.

They run on Flower's own strategies over `LocalGrid`, which counts what is sent.
"""

import logging
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, FedProx
from torch.nn import functional as F

from condense_core import ImageData, PixelStatistics
from condense_core.data import to_unit
from condense_core.networks import FeatureNetwork
from condense_core.seeding import make_generator
from condense_core.training import accuracy
from federated_lib.setting import (
    Cell,
    Federation,
    Outcome,
    Point,
    Setting,
    model_of,
)
from flower_strategy.global_model import initial_model
from flower_strategy.local_grid import LocalGrid
from flower_strategy.payload import content_bytes


class CountingGrid(LocalGrid):
    """Counts the bytes of every message and reply, and the time of every client."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.bytes_up = self.bytes_down = 0
        self.seconds = dict.fromkeys(self.contexts, 0.0)

    def answer(self, message: Message) -> Message | None:
        started = time.perf_counter()
        self.bytes_down += content_bytes(message.content)
        reply = super().answer(message)
        self.seconds[message.metadata.dst_node_id] += time.perf_counter() - started
        if reply is not None and reply.has_content():
            self.bytes_up += content_bytes(reply.content)
        return reply


def train_locally(
    network: FeatureNetwork,
    data: ImageData,
    statistics: PixelStatistics,
    setting: Setting,
    *,
    epochs: int,
    seed: int,
    proximal_mu: float = 0.0,
) -> None:
    """SGD on a client's own images; with ``proximal_mu`` near to where it started."""
    start = [p.detach().clone() for p in network.parameters()]
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=setting.local_learning_rate,
        momentum=setting.local_momentum,
        fused=True,
    )
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=make_generator(seed, epoch))
        for index in order.split(setting.batch_size):
            images = statistics.normalise(to_unit(data.images[index]))
            loss = F.cross_entropy(network(images), data.labels[index])
            if proximal_mu:
                loss = loss + proximal_mu / 2 * _distance(network, start)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def _distance(network: FeatureNetwork, start: list[torch.Tensor]) -> torch.Tensor:
    pairs = zip(network.parameters(), start, strict=True)
    return torch.stack([(p - s).square().sum() for p, s in pairs]).sum()


def run_rounds(
    cell: Cell,
    setting: Setting,
    federation: Federation,
    *,
    rounds: int,
    proximal: bool = False,
    epochs: int = 1,
    asked: int | None = None,
) -> Outcome:
    """FedAvg or FedProx for a number of rounds, tested after each.

    ``asked`` is how many clients take part, the same in every round; None is all.
    """
    statistics = federation.train.statistics()
    network = _initial(cell, setting, federation)
    order = torch.randperm(setting.clients, generator=make_generator(cell.seed, "ask"))
    clients = range(setting.clients) if asked is None else order[:asked].tolist()
    grid = CountingGrid(
        _client_app(federation.shares, network, statistics, setting, cell.seed, epochs),
        [{"partition-id": i} for i in clients],
        {},
    )
    outcome = Outcome()

    def test(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        network.load_state_dict(arrays.to_torch_state_dict())
        found = accuracy(
            network, federation.test.images, federation.test.labels, statistics
        )
        if server_round:
            outcome.points.append(
                Point(
                    rounds=server_round,
                    accuracy=found,
                    bytes_up=grid.bytes_up,
                    bytes_down=grid.bytes_down,
                )
            )
            print(f"  {cell.row} round {server_round}: {found:.2f} %", flush=True)
        return MetricRecord({"accuracy": found})

    options = {
        "fraction_evaluate": 0.0,
        "min_train_nodes": len(clients),
        "min_available_nodes": len(clients),
    }
    strategy = (
        FedProx(proximal_mu=setting.proximal_mu, **options)
        if proximal
        else FedAvg(**options)
    )
    logging.getLogger("flwr").setLevel(logging.WARNING)
    strategy.start(
        grid,
        ArrayRecord(network.state_dict()),
        num_rounds=rounds,
        evaluate_fn=test,
    )
    outcome.client_seconds = list(grid.seconds.values())
    return outcome


def run_at_equal_bytes(
    cell: Cell, setting: Setting, federation: Federation, *, proximal: bool = False
) -> Outcome:
    """FedAvg or FedProx for what all clients may send of ours, models down included.

    Where that is less than a round of everybody, as many clients as it pays for are
    asked once; each then trains as long as in one shot.
    """
    weights = ArrayRecord(_initial(cell, setting, federation).state_dict())
    turn = 2 * content_bytes(RecordDict({"arrays": weights}))
    affordable = max(1, cell.upload_bytes * setting.clients // turn)
    if affordable >= setting.clients:
        rounds = affordable // setting.clients
        return run_rounds(cell, setting, federation, rounds=rounds, proximal=proximal)
    return run_rounds(
        cell,
        setting,
        federation,
        rounds=1,
        proximal=proximal,
        epochs=setting.one_shot_epochs,
        asked=affordable,
    )


def ensemble(cell: Cell, setting: Setting, federation: Federation) -> Outcome:
    """Mean of the probabilities of local models, each sent once; an upper price."""
    statistics = federation.train.statistics()
    total = torch.zeros(len(federation.test), federation.test.num_classes)
    outcome, sent = Outcome(), 0
    for index, share in enumerate(federation.shares):
        started = time.perf_counter()
        network = _initial(cell, setting, federation)
        train_locally(
            network,
            share,
            statistics,
            setting,
            epochs=setting.one_shot_epochs,
            seed=_client_seed(cell.seed, index, 1),
        )
        outcome.client_seconds.append(time.perf_counter() - started)
        sent += content_bytes(RecordDict({"a": ArrayRecord(network.state_dict())}))
        total += _probabilities(network.eval(), federation.test, statistics)
    hits = (total.argmax(1) == federation.test.labels).float().mean()
    outcome.points = [
        Point(rounds=1, accuracy=100 * float(hits), bytes_up=sent, bytes_down=0)
    ]
    return outcome


@torch.inference_mode()
def _probabilities(
    network: FeatureNetwork, data: ImageData, statistics: PixelStatistics
) -> torch.Tensor:
    parts = data.images.split(512)
    return torch.cat(
        [network(statistics.normalise(to_unit(part))).softmax(1) for part in parts]
    )


def _initial(cell: Cell, setting: Setting, federation: Federation) -> FeatureNetwork:
    shape, classes = federation.train.image_shape, federation.train.num_classes
    return initial_model(model_of(cell, setting), shape, classes)


def _client_seed(seed: int, index: int, server_round: int) -> int:
    return 1_000_000 * seed + 1_000 * server_round + index


def _client_app(
    shares: list[ImageData],
    network: FeatureNetwork,
    statistics: PixelStatistics,
    setting: Setting,
    seed: int,
    epochs: int,
) -> Callable[[Message, Context], Message]:
    app = ClientApp()
    local = deepcopy(network)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        index = context.node_config["partition-id"]
        config = message.content["config"]
        local.load_state_dict(message.content["arrays"].to_torch_state_dict())
        train_locally(
            local,
            shares[index],
            statistics,
            setting,
            epochs=epochs,
            seed=_client_seed(seed, index, config["server-round"]),
            proximal_mu=float(config.get("proximal-mu", 0.0)),
        )
        metrics = MetricRecord({"num-examples": len(shares[index])})
        content = {"arrays": ArrayRecord(local.state_dict()), "metrics": metrics}
        return Message(RecordDict(content), reply_to=message)

    return app
