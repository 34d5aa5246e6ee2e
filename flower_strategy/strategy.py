"""The server's side: collect generators, train a global model on what they draw.

A strategy of Flower's message API. One round is one shot: clients condense and send,
the server trains. With more rounds the global model goes down, serves the clients as
matching network, and they send improved generators.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from logging import INFO, WARNING
from pathlib import Path
from typing import cast

import torch
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from condense_core import ConfigError, ImageData, PixelStatistics
from condense_core.artefact.compact import pack
from condense_core.compute.devices import resolve_device
from condense_core.config.strict import at_least, positive
from condense_core.networks import FeatureNetwork
from condense_core.seeding import derive_seed, make_generator
from condense_core.training import accuracy
from flower_strategy.aggregation import (
    initial_model,
    shares_of,
    synthesise,
    train_global,
)
from flower_strategy.exchange import Replies, exchange, wait_for_nodes
from flower_strategy.payload import (
    CONFIG,
    GENERATOR,
    GLOBAL,
    Limits,
)
from flower_strategy.result import CondensationResult, metrics_of
from flower_strategy.robust import outliers
from flower_strategy.roster import Roster
from flower_strategy.rounds import RoundReport, RunState
from flower_strategy.settings import ModelSettings, ServerSettings
from flower_strategy.traffic import with_traffic

CONDENSE, EVALUATE = "train.condense", "evaluate"


class CondensationStrategy(Strategy):
    """One-shot or iterated federated condensation.

    A client that fails, is late, vanishes or sends rubbish is left out with a reason in
    the round's report; it never stops a round. Its contribution of an earlier round
    stays in use.

    Args:
        settings: See `ServerSettings`.
        model: Architecture of the global model, seed and device.
        image_shape: (C, H, W) of every client's images.
        classes: All class names in label order.
        test: Images the global model is tested on after every round, or None.

    Example:
        >>> strategy = CondensationStrategy(
        ...     ServerSettings(min_clients=1),
        ...     ModelSettings(network_width=8),
        ...     image_shape=(1, 8, 8),
        ...     classes=("cat", "dog"),
        ... )
        >>> strategy.limits.max_bytes
        4000000
    """

    def __init__(
        self,
        settings: ServerSettings,
        model: ModelSettings,
        *,
        image_shape: tuple[int, int, int],
        classes: tuple[str, ...],
        test: ImageData | None = None,
    ) -> None:
        if test is not None and (test.image_shape, test.classes) != (
            image_shape,
            classes,
        ):
            raise ConfigError(
                f"test images of shape {test.image_shape} and {test.num_classes} "
                f"classes do not fit {image_shape} and {len(classes)} classes: load "
                "them with the settings of the clients"
            )
        self.settings = settings
        self.model = model
        self.test = test
        self.limits = Limits(
            image_shape=image_shape,
            classes=classes,
            max_bytes=settings.max_upload_bytes,
            max_class_count=settings.max_class_count,
        )
        self.state = RunState()
        self.dropped: frozenset[tuple[str, int]] = frozenset()
        self._roster = Roster()

    def summary(self) -> None:
        """Log the settings."""
        s = self.settings
        network = f"{self.model.network}-{self.model.network_width}"
        for line in (
            f"├──> at least {s.min_clients} clients, {s.round_seconds:g} s a round",
            f"├──> at most {s.max_upload_bytes} bytes from each",
            f"└──> {network} on {s.synthetic_images} images, {s.train_steps} steps",
        ):
            log(INFO, "\t%s", line)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> CondensationResult:
        """Run all rounds that are left, writing each to ``save-to``.

        Args:
            grid: Flower's, or a `flower_strategy.local_grid.LocalGrid`.
            initial_arrays: Weights of the global model; its seeded ones if None.
            num_rounds: Overrides the setting.
            timeout: Overrides the deadline of a round, in seconds.
            train_config: More values for the clients' training messages.
            evaluate_config: Likewise for evaluation.
            evaluate_fn: Called with round and weights after every round.

        Raises:
            ConfigError: ``num_rounds`` is below 1, or ``timeout`` not above 0.
            RunError: Too few clients connect, or a folder cannot be read or written.
        """
        rounds = self.settings.num_server_rounds if num_rounds is None else num_rounds
        seconds = self.settings.round_seconds if timeout is None else timeout
        at_least("num_rounds", rounds, 1)
        positive("timeout", seconds)
        if self.settings.resume_from:
            self._resume(grid, Path(self.settings.resume_from))
        if not self.state.model:
            self.state = RunState(model=self._first_weights(initial_arrays))
        self.summary()
        result = CondensationResult()
        for number in range(self.state.server_round + 1, rounds + 1):
            log(INFO, "[ROUND %d/%d]", number, rounds)
            self.run_round(grid, number, seconds, train_config or ConfigRecord())
            arrays = self._arrays()
            if evaluate_fn is not None and (found := evaluate_fn(number, arrays)):
                result.evaluate_metrics_serverapp[number] = found
            local = self._ask_clients(
                grid, number, arrays, evaluate_config or ConfigRecord(), seconds
            )
            if local is not None:
                result.evaluate_metrics_clientapp[number] = local
            if self.settings.save_to:
                self.state.save(Path(self.settings.save_to))
        for report in self.state.reports:
            number = report.server_round
            result.train_metrics_clientapp[number] = metrics_of(report)
            if report.accuracy is not None:
                own = MetricRecord({"accuracy": report.accuracy})
                result.evaluate_metrics_serverapp.setdefault(number, own)
        result.arrays, result.state = self._arrays(), self.state
        result.dropped = self.dropped
        return result

    def run_round(
        self, grid: Grid, server_round: int, seconds: float, config: ConfigRecord
    ) -> None:
        """Ask, collect, train, test: one round."""
        started = time.monotonic()
        messages = list(
            self.configure_train(server_round, self._arrays(), config, grid)
        )
        replies = exchange(grid, messages, seconds)
        self._close_round(server_round, replies, sent=messages, started=started)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message for each client that is asked to condense."""
        chosen = self.sample_nodes(self._wait_for_nodes(grid), server_round)
        down = ConfigRecord({**config, "server-round": server_round})
        for node in chosen:
            content = RecordDict({CONFIG: down})
            if self.state.trained:
                content[GLOBAL] = arrays
            name = self._roster.greet(node)
            if name in self.state.contributions:
                packed = pack(self.state.contributions[name].condensed)
                own = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
                content[GENERATOR] = ArrayRecord({"packed": Array(own)})
            yield Message(content, node, CONDENSE, ttl=self.settings.round_seconds)

    def sample_nodes(self, nodes: list[int], server_round: int) -> list[int]:
        """The share of the nodes that is asked, drawn anew in every round."""
        count = max(
            self.settings.min_clients, round(self.settings.fraction_train * len(nodes))
        )
        draw = make_generator(self.model.seed, "clients", server_round)
        order = torch.randperm(len(nodes), generator=draw).tolist()
        return sorted(nodes[i] for i in order[:count])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Collect replies and train on them; for callers with a loop of their own."""
        started, found = time.monotonic(), Replies()
        for reply in replies:
            if reply.has_error():
                found.failed[reply.metadata.src_node_id] = str(reply.error.reason)
            else:
                found.content[reply.metadata.src_node_id] = reply
        if not self.state.model:
            self.state = RunState(model=self._first_weights(None))
        self._close_round(server_round, found, sent=[], started=started)
        return self._arrays(), metrics_of(self.state.reports[-1])

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message for each client, if clients are to test the global model."""
        if not (self.settings.evaluate_clients and self.state.trained):
            return []
        mean, std = self.state.normalisation
        down = ConfigRecord(
            {**config, "server-round": server_round, "mean": mean, "std": std}
        )
        return [
            Message(
                RecordDict({GLOBAL: arrays, CONFIG: down}),
                node,
                EVALUATE,
                ttl=self.settings.round_seconds,
            )
            for node in sorted(grid.get_node_ids())
        ]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Accuracy over all clients' held-out images, in percent."""
        hits, images = 0.0, 0
        for reply in replies:
            if reply.has_error():
                continue
            metrics = reply.content.metric_records.get("metrics") or MetricRecord()
            count, share = metrics.get("num-examples"), metrics.get("accuracy")
            if not isinstance(count, int) or not isinstance(share, float):
                continue
            if 0 < count <= self.settings.max_class_count and 0.0 <= share <= 100.0:
                hits, images = hits + count * share, images + count
        if not images:
            return None
        return MetricRecord({"accuracy": hits / images, "num-examples": images})

    def _ask_clients(
        self,
        grid: Grid,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        seconds: float,
    ) -> MetricRecord | None:
        """Have clients test the global model; add what came to the round's report."""
        sent = list(self.configure_evaluate(server_round, arrays, config, grid))
        replies = exchange(grid, sent, seconds).content.values()
        found = self.aggregate_evaluate(server_round, replies)
        *earlier, report = self.state.reports
        report = with_traffic(report, sent, replies)
        if found is not None:
            report = replace(report, client_accuracy=cast(float, found["accuracy"]))
        self.state = replace(self.state, reports=[*earlier, report])
        return found

    def find_outliers(self) -> frozenset[tuple[str, int]]:
        """(client, class) pairs that the robust check leaves out, if it is on."""
        if not self.settings.robust_threshold:
            return frozenset()
        return outliers(
            list(self.state.contributions.values()),
            self.settings.robust_threshold,
            image_shape=self.limits.image_shape,
            seed=self.model.seed,
        )

    def synthesise(self, server_round: int) -> ImageData:
        """Fresh images of all clients, by their counts and ``class-balance``."""
        contributions = list(self.state.contributions.values())
        shares = shares_of(
            contributions,
            self.settings.synthetic_images,
            max_share=self.settings.max_share,
            class_balance=self.settings.class_balance,
            dropped=self.dropped,
        )
        return synthesise(
            contributions,
            shares,
            classes=self.limits.classes,
            seed=derive_seed(self.model.seed, "round", server_round),
            device=resolve_device(self.model.device),
        )

    def _close_round(
        self,
        server_round: int,
        replies: Replies,
        *,
        sent: Sequence[Message],
        started: float,
    ) -> None:
        """Take contributions in, train if there are enough, add the report."""
        accepted, refused = self._roster.collect(replies.content, self.limits)
        failed = {f"node {node}": why for node, why in replies.failed.items()}
        for who, reason in (failed | refused).items():
            log(WARNING, "\t├──> left out %s: %s", who, reason)
        if replies.missing:
            log(WARNING, "\t├──> %d clients did not answer", len(replies.missing))
        report = RoundReport(
            server_round=server_round,
            accepted=sorted(accepted),
            rejected=failed | refused,
            missing=len(replies.missing),
            client_seconds={name: c.seconds for name, c in accepted.items()},
        )
        report = with_traffic(report, sent, replies.content.values())
        merged = {**self.state.contributions, **accepted}
        # In the order of names: who answers first must not change the result.
        self.state = replace(self.state, contributions=dict(sorted(merged.items())))
        if len(accepted) >= self.settings.min_clients:
            report = self._train(report)
        else:
            log(
                WARNING,
                "\t└──> %d contributions, %d needed: the model stays as it is",
                len(accepted),
                self.settings.min_clients,
            )
        report = replace(report, seconds=time.monotonic() - started)
        self.state = self.state.after(report)

    def _train(self, report: RoundReport) -> RoundReport:
        """Train the global model on everybody's images and test it."""
        self.dropped = self.find_outliers()
        reasons = {
            f"{client}, class {self.limits.classes[label]}": "far from its peers"
            for client, label in sorted(self.dropped)
        }
        data = self.synthesise(report.server_round)
        mean, std = self.state.normalisation
        statistics = (
            PixelStatistics(tuple(mean), tuple(std)) if mean else data.statistics()
        )
        network = self._network()
        network.load_state_dict(self.state.model)
        train_global(
            network,
            data,
            statistics,
            self.settings,
            seed=derive_seed(self.model.seed, "train", report.server_round),
            device=self.model.device,
        )
        found = None
        if self.test is not None:
            test = self.test.to(resolve_device(self.model.device))
            found = accuracy(network, test.images, test.labels, statistics)
            log(INFO, "\t└──> global accuracy %.2f %%", found)
        self.state = replace(
            self.state,
            model={name: value.cpu() for name, value in network.state_dict().items()},
            normalisation=(list(statistics.mean), list(statistics.std)),
        )
        return replace(
            report,
            rejected=report.rejected | reasons,
            synthetic_images=len(data),
            accuracy=found,
        )

    def _resume(self, grid: Grid, folder: Path) -> None:
        """Go on from a folder; clients have lost their generators and get them back."""
        self.state = RunState.load(folder)
        if not self.state.contributions:
            return
        self.dropped = self.find_outliers()
        self._roster.ask_names(
            grid,
            self._wait_for_nodes(grid),
            self.state.contributions,
            self.settings.wait_seconds,
        )

    def _wait_for_nodes(self, grid: Grid) -> list[int]:
        settings = self.settings
        return wait_for_nodes(
            grid,
            settings.min_clients,
            settings.wait_seconds,
            wanted=settings.min_available_clients,
        )

    def _network(self) -> FeatureNetwork:
        shape, classes = self.limits.image_shape, len(self.limits.classes)
        return initial_model(self.model, shape, classes)

    def _first_weights(self, given: ArrayRecord | None) -> dict[str, Tensor]:
        if given:
            return dict(given.to_torch_state_dict())
        return self._network().state_dict()

    def _arrays(self) -> ArrayRecord:
        return ArrayRecord(dict(self.state.model))
