"""Accuracy of fresh networks trained on a set, under the field's protocol.

Every network is trained by `condense_core.training.train_network` and tested once,
after its last step: no checkpoint is ever selected by test accuracy.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from condense_core.compute.devices import resolve_device
from condense_core.data import ImageData, PixelStatistics
from condense_core.ensemble import EnsembleMode, trained_networks
from condense_core.errors import ConfigError
from condense_core.networks import FeatureNetwork, build_network
from condense_core.seeding import derive_seed
from condense_core.train_test import (
    CondensedLike,
    Source,
    fitting_data,
    flip_of,
    statistics_of,
)
from condense_core.training import (
    RECIPES,
    Recipe,
    accuracy,
    planned_steps,
    resolve_recipe,
    train_network,
)
from condense_core.versions import library_versions

__all__ = [
    "RECIPES",
    "CondensedLike",
    "EvaluationReport",
    "Recipe",
    "accuracy",
    "evaluate",
    "train_network",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """What was measured, and everything needed to compare it.

    Attributes:
        accuracy_mean: Mean over ``accuracies``, in percent.
        accuracy_std: Their population standard deviation (NumPy's ``std``, ddof=0), as
            in the literature's tables.
        accuracies: Test accuracy of each network after its last step, in percent.
        repeats: Number of networks.
        recipe: Name of the recipe.
        recipe_settings: Its values, and ``flip``.
        network: Name of the network.
        width: Channels of its first block.
        dataset: Name of the test set.
        ipc: Training images per class; None if classes differ in size.
        images: Distinct training images.
        bytes: Size of the training set: as stored for a condensed data set, else of its
            8-bit pixels (labels are not counted).
        bits_per_class: Eight times ``bytes`` over the number of classes.
        label_type: Always ``"hard"``: one class an image.
        steps: Optimiser steps each network took.
        max_steps: The cap on them; None for the whole recipe.
        seed: Seed of all repeats.
        seconds: Wall time of the repeats run by this call.
        device: Where the networks were trained.
        versions: Of python, torch, gencondense and the platform.
    """

    accuracy_mean: float
    accuracy_std: float
    accuracies: tuple[float, ...]
    repeats: int
    recipe: str
    recipe_settings: dict[str, Any]
    network: str
    width: int
    dataset: str
    ipc: int | None
    images: int
    bytes: int
    bits_per_class: float
    label_type: str
    steps: int
    max_steps: int | None
    seed: int
    seconds: float
    device: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that `json.dumps` takes as is."""
        return asdict(self) | {"accuracies": list(self.accuracies)}


def evaluate(
    train: Source,
    test: Source,
    *,
    recipe: str | Recipe = "paper-300",
    network: str = "convnet",
    width: int | None = None,
    repeats: int = 20,
    seed: int = 0,
    device: str | torch.device = "auto",
    flip: bool | None = None,
    max_steps: int | None = None,
    statistics: PixelStatistics | None = None,
    ensemble: EnsembleMode = "auto",
    on_repeat: Callable[[int, float], None] | None = None,
    completed: Sequence[float] = (),
) -> EvaluationReport:
    """Train ``repeats`` fresh networks on ``train`` and test each on ``test``.

    Repeat r depends on ``(seed, r)`` alone, so that an interrupted evaluation continues
    from ``completed`` with the numbers it would have had: bit-equal on the CPU, up to
    nondeterministic kernels on a GPU.

    Args:
        train: A condensed data set, an `ImageData`, a pair of images (N, C, H, W)
            (uint8, or float in [0, 1], then rounded to 8 bits; not normalised) and
            labels (N,), or a map-style Dataset of (image, label). The labels of a pair
            are 0..Y-1, or the names of the other set's classes where these are numbers.
        test: The same; usually the real test data.
        recipe: A key of `RECIPES`, or a `Recipe`.
        network: A key of `condense_core.networks.NETWORKS`.
        width: Width of the network; the published one when left out.
        repeats: Number of networks; the literature trains 20.
        seed: Seed of initialisations, shuffling and augmentation.
        device: ``"auto"`` or a torch device.
        flip: Whether augmentation may mirror images. False for digits and letters. By
            default as the run had it that made a condensed data set, else True.
        max_steps: Cap on the optimiser steps of each network; the learning rate then
            drops at half of the cap. Meant for full-data references on a CPU.
        statistics: Normalisation of training and test images. By default the training
            set's: those a condensed data set carries (the real data's), else computed
            from the images. Pass the real data's for a coreset, so that all rows of a
            table share one normalisation.
        ensemble: Whether the networks are trained one after another (``loop``) or side
            by side (``vmap``); ``auto`` is the loop on the CPU and elsewhere the faster
            of the two in a short trial. Equal within float noise; see
            `condense_core.ensemble`.
        on_repeat: Called with (repeat, accuracy) after each network.
        completed: Accuracies of the first repeats, from an earlier call; not run again.

    Returns:
        The report; accuracies in percent.

    Raises:
        ConfigError: If the recipe, network, device or ensemble is unknown, a number is
            out of range, or ``vmap`` is asked of a network that it cannot train.
        DataError: If training and test data do not fit each other: other image shapes,
            other classes or the same in another order, labels that fit none.
        RunError: If the device is absent.
    """
    recipe = resolve_recipe(recipe)
    for key, value in (("repeats", repeats), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise ConfigError(f"{key} is {value}: give at least 1")
    device = resolve_device(device)
    train_data, test_data = fitting_data(train, test)
    statistics = statistics or statistics_of(train, train_data)
    flip = flip_of(train) if flip is None else flip
    num_classes, image_shape = train_data.num_classes, train_data.image_shape
    built_width = require_network(network, width, train_data)
    counts = train_data.counts.tolist()
    size = int(getattr(train, "nbytes", train_data.images.nbytes))

    train_data, test_data = train_data.to(device), test_data.to(device)
    accuracies = [float(value) for value in completed][:repeats]
    start = time.perf_counter()

    def build(repeat: int) -> FeatureNetwork:
        return build_network(
            network,
            image_shape=image_shape,
            num_classes=num_classes,
            width=width,
            seed=repeat_seeds[repeat],
        ).to(device)

    repeat_seeds = {
        repeat: derive_seed(seed, "evaluate", repeat)
        for repeat in range(len(accuracies), repeats)
    }
    for repeat, trained in trained_networks(
        build,
        repeat_seeds,
        train_data.images,
        train_data.labels,
        mode=ensemble,
        recipe=recipe,
        statistics=statistics,
        flip=flip,
        max_steps=max_steps,
    ):
        accuracies.append(
            accuracy(trained, test_data.images, test_data.labels, statistics)
        )
        if on_repeat is not None:
            on_repeat(repeat, accuracies[-1])

    return EvaluationReport(
        accuracy_mean=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies)),
        accuracies=tuple(accuracies),
        repeats=repeats,
        recipe=recipe.name,
        recipe_settings=asdict(recipe) | {"flip": flip},
        network=network,
        width=built_width,
        dataset=test_data.name,
        ipc=counts[0] if len(set(counts)) == 1 else None,
        images=len(train_data),
        bytes=size,
        bits_per_class=8 * size / num_classes,
        label_type="hard",
        steps=planned_steps(len(train_data), recipe, max_steps),
        max_steps=max_steps,
        seed=seed,
        seconds=time.perf_counter() - start,
        device=str(device),
        versions=library_versions(),
    )


def require_network(network: str, width: int | None, data: ImageData) -> int:
    """Width of a network for these images, which is built once and thrown away.

    Before any training: what cannot be built is refused then.

    Raises:
        ConfigError: The network is unknown or does not fit the images.
    """
    return build_network(
        network,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        width=width,
        seed=0,
    ).width
