"""Coresets: real images chosen to stand for the data set, the baselines of the field.

Every selection is class-balanced and returns indices in class order. *Random* needs
nothing; the others need a network trained on the real data: *herding* and *k-center*
its embeddings, *forgetting* the history of its predictions.

Shape legend: N data set, n images of one class, D feature.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from condense_core.config.strict import at_least
from condense_core.data import ImageData, PixelStatistics
from condense_core.data.options import CLASSES
from condense_core.errors import ConfigError, DataError
from condense_core.observation import (
    EPOCHS,
    Observation,
    count_forgetting,
    observe_training,
    selection_recipe,
)
from condense_core.seeding import make_generator
from condense_core.training import planned_steps

__all__ = [
    "CORESETS",
    "Observation",
    "count_forgetting",
    "observe_training",
    "select",
    "select_forgetting",
    "select_herding",
    "select_kcenter",
    "select_random",
]


def select_random(data: ImageData, images_per_class: int, *, seed: int) -> Tensor:
    """Draw images of each class uniformly, without replacement.

    Args:
        data: The real data.
        images_per_class: Images to select of each class.
        seed: Seed of the draw.

    Returns:
        Indices int64 (Y * images_per_class,), class by class.

    Raises:
        ConfigError: If ``images_per_class`` is not positive.
        DataError: If a class has fewer images.
    """
    return _by_class(
        data,
        images_per_class,
        lambda label, members_n: torch.randperm(
            len(members_n), generator=make_generator(seed, "random", label)
        ),
    )


def select_herding(
    data: ImageData, images_per_class: int, *, features_ND: Tensor
) -> Tensor:
    """Greedily keep the mean feature of the selection near that of the class.

    `Welling, 2009 <https://doi.org/10.1145/1553374.1553517>`_, as in iCaRL but without
    normalising features: the next image is the one that brings the mean of the
    selection closest to the class mean.

    Args:
        data: The real data.
        images_per_class: Images to select of each class.
        features_ND: An embedding of each image.

    Returns:
        Indices int64 (Y * images_per_class,), class by class, in order of selection.

    Raises:
        ConfigError: If ``images_per_class`` is not positive.
        DataError: If a class has fewer images.
    """

    def order(label: int, members_n: Tensor) -> Tensor:
        features_nD = features_ND.cpu()[members_n].double()
        mean_D = features_nD.mean(0)
        total_D = torch.zeros_like(mean_D)
        free_n = torch.ones(len(members_n), dtype=torch.bool)
        chosen: list[Tensor] = []
        for size in range(1, images_per_class + 1):
            distance_n = ((total_D + features_nD) / size - mean_D).square().sum(1)
            best = distance_n.where(free_n, torch.inf).argmin()
            free_n[best] = False
            total_D = total_D + features_nD[best]
            chosen.append(best)
        return torch.stack(chosen)

    return _by_class(data, images_per_class, order)


def select_kcenter(
    data: ImageData, images_per_class: int, *, features_ND: Tensor
) -> Tensor:
    """Greedily cover each class: always add the image farthest from the selection.

    The greedy k-center of `Sener and Savarese, 2018
    <https://arxiv.org/abs/1708.00489>`_ within each class, started at the image nearest
    the class mean.

    Args:
        data: The real data.
        images_per_class: Images to select of each class.
        features_ND: An embedding of each image.

    Returns:
        Indices int64 (Y * images_per_class,), class by class, in order of selection.

    Raises:
        ConfigError: If ``images_per_class`` is not positive.
        DataError: If a class has fewer images.
    """

    def order(label: int, members_n: Tensor) -> Tensor:
        features_nD = features_ND.cpu()[members_n].double()
        centre = (features_nD - features_nD.mean(0)).square().sum(1).argmin()
        chosen = [centre]
        nearest_n = (features_nD - features_nD[centre]).square().sum(1)
        nearest_n[centre] = -1.0  # never chosen again, even among duplicates
        while len(chosen) < images_per_class:
            centre = nearest_n.argmax()
            chosen.append(centre)
            distance_n = (features_nD - features_nD[centre]).square().sum(1)
            nearest_n = torch.minimum(nearest_n, distance_n)
            nearest_n[centre] = -1.0
        return torch.stack(chosen)

    return _by_class(data, images_per_class, order)


def select_forgetting(
    data: ImageData, images_per_class: int, *, forgetting_N: Tensor, seed: int
) -> Tensor:
    """Select the most often forgotten images of each class.

    `Toneva et al., 2019 <https://arxiv.org/abs/1812.05159>`_, as used as a baseline in
    dataset condensation. Ties are broken at random: on easy data most images are never
    forgotten, and their order in the file should not matter.

    Args:
        data: The real data.
        images_per_class: Images to select of each class.
        forgetting_N: Forgetting events of each image (see `count_forgetting`).
        seed: Seed of the tie break.

    Returns:
        Indices int64 (Y * images_per_class,), class by class, most forgotten first.

    Raises:
        ConfigError: If ``images_per_class`` is not positive.
        DataError: If a class has fewer images.
    """

    def order(label: int, members_n: Tensor) -> Tensor:
        generator = make_generator(seed, "forgetting", label)
        shuffled_n = torch.randperm(len(members_n), generator=generator)
        events_n = forgetting_N.cpu()[members_n][shuffled_n]
        return shuffled_n[events_n.argsort(descending=True, stable=True)]

    return _by_class(data, images_per_class, order)


# Name -> selection from (data, images_per_class, seed, a function that trains once).
CORESETS: dict[str, Callable[[ImageData, int, int, Callable[[], Observation]], Tensor]]
CORESETS = {
    "random": lambda data, size, seed, observe: select_random(data, size, seed=seed),
    "herding": lambda data, size, seed, observe: select_herding(
        data, size, features_ND=observe().features
    ),
    "kcenter": lambda data, size, seed, observe: select_kcenter(
        data, size, features_ND=observe().features
    ),
    "forgetting": lambda data, size, seed, observe: select_forgetting(
        data, size, forgetting_N=observe().forgetting, seed=seed
    ),
}


def select(
    name: str,
    data: ImageData,
    images_per_class: int,
    *,
    seed: int,
    network: str = "convnet",
    network_width: int | None = None,
    epochs: int = EPOCHS,
    max_steps: int | None = None,
    statistics: PixelStatistics | None = None,
    device: str | torch.device = "auto",
) -> ImageData:
    """Select a coreset by name, training a network first where the method needs one.

    Args:
        name: A key of `CORESETS`.
        data: The real data.
        images_per_class: Images to select of each class.
        seed: Seed of selection and training.
        network: See `observe_training`, like all that follow.
        network_width: Width of the network.
        epochs: Passes over the data.
        max_steps: Cap on the optimiser steps.
        statistics: Normalisation.
        device: ``"auto"`` or a torch device.

    Returns:
        The selected images in class order, under the name of the data.

    Raises:
        ConfigError: If the name is unknown, a number is out of range, or the steps are
            too few, see `check_selection`.
        DataError: If a class has fewer than ``images_per_class`` images.
        RunError: If the device is absent.
    """
    check_selection(name, data, images_per_class, epochs=epochs, max_steps=max_steps)
    indices = CORESETS[name](
        data,
        images_per_class,
        seed,
        lambda: observe_training(
            data,
            seed=seed,
            network=network,
            network_width=network_width,
            epochs=epochs,
            max_steps=max_steps,
            statistics=statistics,
            device=device,
        ),
    )
    return data.subset(indices)


def check_selection(
    name: str,
    data: ImageData,
    images_per_class: int,
    *,
    epochs: int = EPOCHS,
    max_steps: int | None = None,
) -> None:
    """Refuse before minutes of training what `select` cannot choose after them.

    Raises:
        ConfigError: The name is unknown, a number is out of range, or ``forgetting``
            would see fewer than two whole epochs: nothing can be forgotten in one.
        DataError: A class has fewer than ``images_per_class`` images.
    """
    if name not in CORESETS:
        raise ConfigError(
            f"unknown coreset '{name}': choose one of {', '.join(CORESETS)}"
        )
    _require_enough(data, images_per_class)
    at_least("selection epochs", epochs, 1)
    at_least("selection steps", max_steps, 1)
    steps = planned_steps(len(data), selection_recipe(epochs), max_steps)
    two_epochs = planned_steps(len(data), selection_recipe(2))
    if name == "forgetting" and steps < two_epochs:
        raise ConfigError(
            f"forgetting is counted from one epoch to the next, and {steps} steps are "
            f"not two epochs of {len(data)} images: give {two_epochs} or more "
            "(--selection-steps; in a run teacher.steps)"
        )


def _by_class(
    data: ImageData, images_per_class: int, order: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """Join the first ``images_per_class`` members of each class, as ``order`` ranks."""
    _require_enough(data, images_per_class)
    labels_N = data.labels.cpu()  # greedy choices are many tiny steps: no GPU for them
    chosen: list[Tensor] = []
    for label in range(data.num_classes):
        members_n = (labels_N == label).nonzero().squeeze(1)
        chosen.append(members_n[order(label, members_n)[:images_per_class]])
    return torch.cat(chosen)


def _require_enough(data: ImageData, images_per_class: int) -> None:
    if images_per_class < 1:
        raise ConfigError(
            f"images_per_class is {images_per_class}: give an integer of at least 1"
        )
    smallest = int(data.counts.argmin())
    available = int(data.counts[smallest])
    if available < images_per_class:
        raise DataError(
            f"class '{data.classes[smallest]}' of {data.name} has {available} "
            f"image{'s' if available > 1 else ''} but images_per_class is "
            f"{images_per_class}: use at most {available} (with evaluate --ipc), or "
            f"read the other classes alone, as with {CLASSES}"
        )
