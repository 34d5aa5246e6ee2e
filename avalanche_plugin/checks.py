"""Checks of options and samples, each with one message that says the remedy."""

import operator
from typing import Any

from torch import Tensor

from condense_core.errors import ConfigError, DataError
from condense_core.generator import LARGEST_SIDE, SMALLEST_SIDE


def require_positive(name: str, value: Any) -> int:
    """The value as an ``int``; integers of NumPy, as from a sweep, are taken too.

    Raises:
        ConfigError: It is anything but a whole number above 0; names the option.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{name} is {value!r}: choose a positive whole number")
    return number


def require_samples(count: int) -> None:
    """Refuse an empty experience.

    Raises:
        DataError: ``count`` is 0.
    """
    if count == 0:
        raise DataError("an experience has no samples: skip it")


def require_elements(sample: Any) -> None:
    """Refuse samples of which a generator cannot make more.

    Args:
        sample: Of a data set, or a batch of them.

    Raises:
        DataError: It is not (x, y) or (x, y, task).
    """
    if not isinstance(sample, list | tuple) or len(sample) < 2:
        raise DataError(
            "the samples of an experience have no labels: replay needs (x, y)"
        )
    if len(sample) > 3:
        raise DataError(
            f"the samples of an experience have {len(sample)} elements, and generated "
            "ones only image, label and task: leave out the others "
            "(use_in_getitem=False)"
        )


def require_labels(labels: Tensor) -> None:
    """Refuse labels of a minibatch that those of generated images cannot join.

    Raises:
        DataError: They are not one whole number an image.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype} in a "
            "minibatch are not one whole number an image, as those of replayed images "
            "are: mix or encode labels in the criterion, or in a plugin behind this one"
        )


def require_image(shape: tuple[int, ...]) -> None:
    """Refuse samples that cannot be condensed.

    Args:
        shape: Of one sample.

    Raises:
        DataError: It is not (C, H, W) with one or three channels and sides that a
            generator can have.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"samples of shape {tuple(shape)} are not images: replay by condensation "
            "needs (C, H, W) with 1 or 3 channels; end the evaluation transforms with "
            "ToTensor, and flatten inside the model"
        )
    sides = shape[1:]
    if min(sides) < SMALLEST_SIDE or max(sides) > LARGEST_SIDE:
        raise DataError(
            f"images of {'x'.join(map(str, sides))} pixels cannot be condensed: resize "
            f"them to sides of {SMALLEST_SIDE} to {LARGEST_SIDE} in the evaluation "
            "transforms, and in those of training"
        )
