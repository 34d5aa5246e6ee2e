"""A cheap look at a synthetic set while it is being learned.

A small network is trained on the present images and tested on *training* images, so
that a curve can be drawn without touching test data. No decision depends on it, and
nothing in the synthesiser changes.
"""

import torch

from condense_core.config import CondenseConfig
from condense_core.data import ImageData, PixelStatistics
from condense_core.networks import build_network
from condense_core.seeding import derive_seed, make_generator
from condense_core.synthesiser import Synthesiser, statistics_kept
from condense_core.training import Recipe, accuracy, train_network

PROBE_WIDTH = 32
PROBE_EPOCHS = 100
PROBE_IMAGES = 1000
RECIPE = Recipe("probe", epochs=PROBE_EPOCHS)


class Probe:
    """Callable: the step, to the accuracy in percent of a network trained now."""

    def __init__(
        self,
        synthesiser: Synthesiser,
        data: ImageData,
        statistics: PixelStatistics,
        config: CondenseConfig,
    ) -> None:
        """Choose the training images to test on, once."""
        self._synthesiser, self._statistics, self._config = (
            synthesiser,
            statistics,
            config,
        )
        order = torch.randperm(
            len(data), generator=make_generator(config.seed, "probe")
        )
        self._data = data.subset(order[:PROBE_IMAGES])

    def __call__(self, step: int) -> float:
        """Train on the images as they are in training mode, test, return percent."""
        spec, config = self._synthesiser.spec, self._config
        device = self._synthesiser.class_embedding.device
        class_ids = torch.arange(spec.num_classes, device=device)
        code_ids = torch.arange(spec.images_per_class, device=device)
        with torch.no_grad(), statistics_kept(self._synthesiser):
            images = self._synthesiser(class_ids, code_ids).flatten(0, 1)
        seed = derive_seed(config.seed, "probe", step)
        network = build_network(
            "convnet",
            image_shape=spec.image_shape,
            num_classes=spec.num_classes,
            width=PROBE_WIDTH,
            seed=seed,
        ).to(device)
        train_network(
            network,
            images,
            class_ids.repeat_interleave(spec.images_per_class),
            recipe=RECIPE,
            statistics=self._statistics,
            seed=seed,
        )
        held = self._data.to(device)
        return accuracy(network, held.images, held.labels, self._statistics)
