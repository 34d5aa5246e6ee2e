"""The server's side: collect generators and train a global model on their images.

A strategy of Flower's message API. In a single round (one shot) clients condense and
send, and the server trains. With more rounds the clients also receive the global model,
use it as matching network, and send improved generators.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from logging import INFO, WARNING
from pathlib import Path
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from condense_core import ConfigError, ImageData
from condense_core.config.strict import at_least, positive
from condense_core.seeding import make_generator
from flower_strategy.aggregation import Dropped
from flower_strategy.exchange import Replies, exchange, sort_replies, wait_for_nodes
from flower_strategy.global_model import GlobalTraining
from flower_strategy.payload import CONFIG, GENERATOR, GLOBAL, Limits, pack_generator
from flower_strategy.result import CondensationResult, metrics_of
from flower_strategy.roster import Roster
from flower_strategy.rounds import RoundReport, RunState, meaning_of, refuse_rounds
from flower_strategy.settings import ModelSettings, ServerSettings
from flower_strategy.traffic import with_traffic

CONDENSE, EVALUATE = "train.condense", "evaluate"


class CondensationStrategy(Strategy):
    """One-shot or iterated federated condensation.

    A client that fails, is late, vanishes or sends invalid data is left out, with a
    reason in the report of the round; it never stops a round. What it contributed in an
    earlier round stays in use.

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
        given = (image_shape, classes)
        if test is not None and (test.image_shape, test.classes) != given:
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
        self.dropped: Dropped = frozenset()
        self._training = GlobalTraining(
            settings=settings, model=model, limits=self.limits, test=test
        )
        self._roster = Roster()
        self._asked: list[Message] = []  # in the newest round
        self._settled = False  # whether the clients of the first round are there

    def summary(self) -> None:
        """Log the settings."""
        s = self.settings
        network = f"{self.model.network}-{self.model.network_width}"
        for line in (
            f"├──> at least {s.min_clients} clients, {s.round_seconds:g} s per round",
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
        """Run all remaining rounds, and write each to ``save-to``.

        Args:
            grid: Flower's, or a `flower_strategy.local_grid.LocalGrid`.
            initial_arrays: First weights of the global model; None derives them from
                the seed.
            num_rounds: Overrides the setting.
            timeout: Overrides the deadline of a round, in seconds.
            train_config: Further values for the clients' training messages.
            evaluate_config: Likewise for evaluation.
            evaluate_fn: Called with round and weights after every round, and before
                the first with 0.

        Raises:
            ConfigError: ``num_rounds`` is below 1, or ``timeout`` not above 0, or
                ``save-to`` holds rounds of another run, or that in ``resume-from`` has
                other settings.
            RunError: Too few clients connect, or a folder cannot be read or written.
        """
        rounds = self.settings.num_server_rounds if num_rounds is None else num_rounds
        seconds = self.settings.round_seconds if timeout is None else timeout
        at_least("num_rounds", rounds, 1)
        positive("timeout", seconds)
        save_to, resume_from = self._folders
        if save_to and save_to != resume_from and not self.state.reports:
            refuse_rounds(save_to)
        if resume_from and (resume_from != save_to or resume_from.is_dir()):
            # One command starts and restarts a run if both are the same new folder.
            self._resume(grid, resume_from, seconds)
        self._initialise(initial_arrays)
        self.summary()
        result = CondensationResult()
        if evaluate_fn is not None and not self.state.reports:
            result.evaluated(0, evaluate_fn(0, self.state.arrays))
        for number in range(self.state.server_round + 1, rounds + 1):
            log(INFO, "[ROUND %d/%d]", number, rounds)
            self.run_round(grid, number, seconds, train_config or ConfigRecord())
            arrays = self.state.arrays
            if evaluate_fn is not None:
                result.evaluated(number, evaluate_fn(number, arrays))
            self._ask_clients(
                grid, number, arrays, evaluate_config or ConfigRecord(), seconds
            )
            if save_to:
                self.state.save(save_to)
        result.finish(self.state, self.dropped)
        return result

    def run_round(
        self, grid: Grid, server_round: int, seconds: float, config: ConfigRecord
    ) -> None:
        """One round: ask, collect, train, test."""
        started = time.monotonic()
        messages = self.configure_train(server_round, self.state.arrays, config, grid)
        replies = exchange(grid, messages, seconds)
        self._close_round(server_round, replies, sent=messages, started=started)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """A message for each client that is asked to condense.

        Before the first training ``arrays`` are the first weights of the global model;
        if there are none, the seed decides.
        """
        self._initialise(arrays)
        nodes = self._wait_for_nodes(grid)
        chosen = self.sample_nodes(nodes, server_round)
        log(INFO, "\t├──> asking %d of %d connected clients", len(chosen), len(nodes))
        down = ConfigRecord({**config, "server-round": server_round})
        self._asked = []
        for node in chosen:
            content = RecordDict({CONFIG: down})
            if self.state.trained:
                content[GLOBAL] = arrays
            name = self._roster.greet(node)
            if name in self.state.contributions:
                own = self.state.contributions[name].condensed
                content[GENERATOR] = pack_generator(own)
            self._asked.append(Message(content, node, CONDENSE))
        return self._asked

    def sample_nodes(self, nodes: list[int], server_round: int) -> list[int]:
        """The nodes that are asked this round, a random part of all that are there."""
        count = max(
            self.settings.min_clients, round(self.settings.fraction_train * len(nodes))
        )
        rng = make_generator(self.model.seed, "clients", server_round)
        order = torch.randperm(len(nodes), generator=rng).tolist()
        return sorted(nodes[i] for i in order[:count])

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Train on replies to `configure_train`; for callers with their own loop."""
        started = time.monotonic()
        found = sort_replies(self._asked, replies)
        self._close_round(server_round, found, sent=self._asked, started=started)
        return self.state.arrays, metrics_of(self.state.reports[-1])

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
            Message(RecordDict({GLOBAL: arrays, CONFIG: down}), node, EVALUATE)
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
            count, percent = metrics.get("num-examples"), metrics.get("accuracy")
            if not isinstance(count, int) or not isinstance(percent, float):
                continue
            if 0 < count <= self.settings.max_class_count and 0.0 <= percent <= 100.0:
                hits, images = hits + count * percent, images + count
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
    ) -> None:
        """Have clients test the global model; add the result to the round's report."""
        sent = list(self.configure_evaluate(server_round, arrays, config, grid))
        answers = exchange(grid, sent, seconds)
        late = dict.fromkeys(answers.missing, "did not answer")
        untested = {
            f"node {node}": why for node, why in (answers.failed | late).items()
        }
        for who, reason in untested.items():
            log(WARNING, "\t├──> not tested by %s: %s", who, reason)
        replies = answers.content.values()
        found = self.aggregate_evaluate(server_round, replies)
        *earlier, report = self.state.reports
        report = replace(with_traffic(report, sent, replies), untested=untested)
        if found is not None:
            percent = cast(float, found["accuracy"])
            images = cast(int, found["num-examples"])
            log(INFO, "\t└──> by clients %.2f %% on %d images", percent, images)
            report = replace(report, client_accuracy=percent, client_images=images)
        self.state = replace(self.state, reports=[*earlier, report])

    def _close_round(
        self,
        server_round: int,
        replies: Replies,
        *,
        sent: Sequence[Message],
        started: float,
    ) -> None:
        """Take in contributions, train if there are enough, add the report."""
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
        # Sorted by name: the result must not depend on which client answers first.
        self.state = replace(self.state, contributions=dict(sorted(merged.items())))
        if len(accepted) >= self.settings.min_clients:
            if self._folders[0] and not self.state.trained:
                # So that a failure of the training does not cost the clients' work.
                self.state.save(self._folders[0])
            self.dropped = self._training.find_outliers(self.state)
            self.state, report = self._training.train(self.state, report, self.dropped)
        else:
            log(
                WARNING,
                "\t└──> %d contributions, %d needed: the model stays as it is",
                len(accepted),
                self.settings.min_clients,
            )
        report = replace(report, seconds=time.monotonic() - started)
        self.state = self.state.after(report)

    @property
    def _folders(self) -> tuple[Path | None, Path | None]:
        """Where rounds are saved to, and resumed from."""
        names = self.settings.save_to, self.settings.resume_from
        save_to, resume_from = (Path(name) if name else None for name in names)
        return save_to, resume_from

    def _initialise(self, given: ArrayRecord | None) -> None:
        """Begin with the given weights or the seeded ones, unless there are some."""
        if self.state.model:
            return
        weights = (
            given.to_torch_state_dict() if given else self._training.first_weights()
        )
        self.state = RunState(
            model=dict(weights), meaning=meaning_of(self.model, self.limits)
        )

    def _resume(self, grid: Grid, folder: Path, seconds: float) -> None:
        """Load the state, and find its clients again to return their generators."""
        self.state = RunState.load(folder)
        self.state.check_meaning(meaning_of(self.model, self.limits))
        if not self.state.contributions:
            return
        self.dropped = self._training.find_outliers(self.state)
        nodes = self._wait_for_nodes(grid)
        self._roster.ask_names(grid, nodes, self.state.contributions, seconds)

    def _wait_for_nodes(self, grid: Grid) -> list[int]:
        """Those that are connected, in the first round when no more come."""
        settings = self.settings
        counted = settings.min_available_clients or getattr(
            grid, "all_connected", False
        )
        nodes = wait_for_nodes(
            grid,
            settings.min_clients,
            settings.wait_seconds,
            wanted=settings.min_available_clients,
            settle=0.0 if counted or self._settled else settings.settle_seconds,
        )
        self._settled = True
        return nodes
