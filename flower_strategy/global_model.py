"""The server's training: every client's generator in, a global model out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from logging import INFO
from pathlib import Path

import torch
from flwr.common.logger import log
from torch import Tensor

from condense_core import ImageData, PixelStatistics, RunError
from condense_core.compute.devices import resolve_device
from condense_core.networks import FeatureNetwork, build_network
from condense_core.seeding import derive_seed
from condense_core.training import Recipe, accuracy, train_network
from flower_strategy.aggregation import Dropped, image_counts, synthesise
from flower_strategy.payload import Contribution, Limits
from flower_strategy.robust import outliers
from flower_strategy.rounds import RoundReport, RunState
from flower_strategy.settings import ModelSettings, ServerSettings

TRAIN_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class GlobalTraining:
    """One round of the server: check generators, draw images, train, test.

    Attributes:
        settings: See `ServerSettings`.
        model: Architecture of the global model, seed and device.
        limits: Image shape and class names.
        test: Images the global model is tested on, or None.

    Raises:
        ConfigError: The device is unknown.
        RunError: This machine does not have it.
    """

    settings: ServerSettings
    model: ModelSettings
    limits: Limits
    test: ImageData | None

    def __post_init__(self) -> None:
        """Check the device, before clients work for what could not be trained."""
        resolve_device(self.model.device)

    def first_weights(self) -> dict[str, Tensor]:
        """Weights of the global model before the first round."""
        return self._network().state_dict()

    def find_outliers(self, state: RunState) -> Dropped:
        """(client, class) pairs that the robust check leaves out, if it is on."""
        if not self.settings.robust_threshold:
            return frozenset()
        return outliers(
            list(state.contributions.values()),
            self.settings.robust_threshold,
            image_shape=self.limits.image_shape,
            seed=self.model.seed,
        )

    def train(
        self, state: RunState, report: RoundReport, dropped: Dropped
    ) -> tuple[RunState, RoundReport]:
        """Train the global model further on fresh images, then test it.

        Args:
            state: Contributions, and the global model so far; left unchanged.
            report: Of this round.
            dropped: (client, class) pairs that are left out.

        Returns:
            State and report with the results added.
        """
        device = resolve_device(self.model.device)
        data = self._synthesise(
            list(state.contributions.values()), dropped, report.server_round, device
        )
        mean, std = state.normalisation
        statistics = (
            PixelStatistics(tuple(mean), tuple(std))
            if state.trained
            else data.statistics()
        )
        network = self._network()
        network.load_state_dict(state.model)
        train_global(
            network,
            data,
            statistics,
            self.settings,
            seed=derive_seed(self.model.seed, "train", report.server_round),
            device=device,
        )
        found = None
        if self.test is not None:
            test = self.test.to(device)
            found = accuracy(network, test.images, test.labels, statistics)
            log(INFO, "\t└──> global accuracy %.2f %%", found)
        state = replace(
            state,
            model={name: value.cpu() for name, value in network.state_dict().items()},
            normalisation=(list(statistics.mean), list(statistics.std)),
        )
        reasons = {
            f"{client}, class {self.limits.classes[label]}": "far from its peers"
            for client, label in sorted(dropped)
        }
        report = replace(
            report,
            rejected=report.rejected | reasons,
            synthetic_images=len(data),
            accuracy=found,
        )
        return state, report

    def _network(self) -> FeatureNetwork:
        shape, classes = self.limits.image_shape, len(self.limits.classes)
        return initial_model(self.model, shape, classes)

    def _synthesise(
        self,
        contributions: Sequence[Contribution],
        dropped: Dropped,
        server_round: int,
        device: torch.device,
    ) -> ImageData:
        counts = image_counts(
            contributions,
            self.settings.synthetic_images,
            max_share=self.settings.max_share,
            class_balance=self.settings.class_balance,
            dropped=dropped,
        )
        return synthesise(
            contributions,
            counts,
            classes=self.limits.classes,
            seed=derive_seed(self.model.seed, "round", server_round),
            device=device,
        )


def load_global_model(folder: Path | str) -> tuple[FeatureNetwork, PixelStatistics]:
    """The trained model of a run, for images that nobody has seen yet.

    Args:
        folder: ``save-to`` of the run, for its newest round, or ``round-NNN`` in it.

    Returns:
        The network in evaluation mode, on the CPU, and the statistics that images in
        [0, 1] are normalised with: ``network(statistics.normalise(images))`` are the
        logits of ``classes`` in ``round.json``.

    Raises:
        RunError: There is no such folder, no trained model in it, or it is damaged.
    """
    state = RunState.load(Path(folder))
    if not state.trained:
        raise RunError(f"{folder} has no trained model: give save-to of a finished run")
    names = {field.name for field in fields(ModelSettings)}
    known = {k: v for k, v in state.meaning.items() if k in names}
    shape, classes = state.meaning["image_shape"], state.meaning["classes"]
    network = initial_model(ModelSettings(**known), tuple(shape), len(classes))
    network.load_state_dict(state.model)
    mean, std = state.normalisation
    return network.eval(), PixelStatistics(tuple(mean), tuple(std))


def initial_model(
    model: ModelSettings, image_shape: tuple[int, int, int], num_classes: int
) -> FeatureNetwork:
    """The global model before the first round; depends on the settings alone."""
    return build_network(
        model.network,
        image_shape=image_shape,
        num_classes=num_classes,
        width=model.network_width,
        low_pass=model.low_pass,
        seed=derive_seed(model.seed, "global-model"),
    )


def train_global(
    network: FeatureNetwork,
    data: ImageData,
    statistics: PixelStatistics,
    settings: ServerSettings,
    *,
    seed: int,
    device: str | torch.device = "auto",
) -> None:
    """Train the global model in place on synthetic images; left on the device."""
    device = resolve_device(device)
    data = data.to(device)
    augment = None if settings.augment == "none" else settings.augment
    train_network(
        network.to(device),
        data.images,
        data.labels,
        recipe=Recipe(
            "federated",
            epochs=settings.train_steps,
            augment=augment,
            learning_rate=settings.learning_rate,
            batch_size=TRAIN_BATCH,
            label_smoothing=settings.label_smoothing,
        ),
        statistics=statistics,
        seed=seed,
        flip=settings.flip,
        max_steps=settings.train_steps,
    )
