"""A training and a test set of an evaluation, as images of the same classes."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from condense_core.data import (
    ImageData,
    PixelStatistics,
    as_image_data,
    valid_text,
)
from condense_core.data.convert import read_samples
from condense_core.errors import DataError


class CondensedLike(Protocol):
    """What an evaluation needs of a condensed data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""

    def images(self) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [0, 1] and labels (N,)."""


Source = ImageData | CondensedLike | tuple[Tensor, Tensor] | Dataset[Any]


def fitting_data(train: Source, test: Source) -> tuple[ImageData, ImageData]:
    """Both sets as 8-bit images with the same image shape and the same classes.

    Rounding changes nothing in a condensed data set, which is on the 8-bit grid.
    """
    # A bare pair has no class names: it takes the other set's, or else numbers up to
    # the highest label in both, not only those that happen to occur in one of them.
    train, test = _readable(train, "training set"), _readable(test, "test set")
    highest = 0
    classes: tuple[str, ...] = ()
    for source in (test, train):
        if isinstance(source, tuple):
            highest = max(highest, int(torch.as_tensor(source[1]).max()))
        else:
            classes = source.classes
    classes = classes or tuple(str(label) for label in range(highest + 1))
    train_data = _image_data(train, classes, name="training set")
    test_data = _image_data(test, classes, name="test set")

    if train_data.image_shape != test_data.image_shape:
        raise DataError(
            f"training images have shape {train_data.image_shape}, test images "
            f"{test_data.image_shape}: load both with the same image size and channels"
        )
    if train_data.num_classes != test_data.num_classes:
        raise DataError(
            f"training data have {train_data.num_classes} classes, test data "
            f"{test_data.num_classes}: evaluate on the data set that was condensed"
        )
    trained, tested = (
        [valid_text(name) for name in data.classes] for data in (train_data, test_data)
    )
    if set(trained) == set(tested) and trained != tested:
        raise DataError(
            f"training and test classes are in different order ({trained[0]}"
            f"... and {tested[0]}...): load both with the same class list"
        )
    if trained != tested:
        label = next(i for i, name in enumerate(trained) if name != tested[i])
        raise DataError(
            f"class {label} is {trained[label]!r} in the training data and "
            f"{tested[label]!r} in the test data: evaluate on the data set that was "
            "condensed, or give the same class names"
        )
    return train_data, test_data


_Readable = ImageData | CondensedLike | tuple[Tensor, Tensor]


def _readable(source: Source, name: str) -> _Readable:
    """A Dataset as what it holds; anything else is one of the kinds left already.

    One that names no classes is a pair: which labels occur in it is no list of them.
    """
    if isinstance(source, TensorDataset) and len(source.tensors) >= 2:
        return source.tensors[0], source.tensors[1]
    if isinstance(source, list) and len(source) == 2:
        return source[0], source[1]
    condensed = callable(getattr(source, "images", None))
    if condensed or isinstance(source, ImageData | tuple):
        return cast(_Readable, source)
    if not isinstance(getattr(source, "classes", None), tuple | list):
        images, labels = read_samples(source, name=name)
        if labels.dtype.kind in "iu":
            return images, torch.from_numpy(labels)
    return as_image_data(source, name=name)


def _image_data(source: _Readable, classes: tuple[str, ...], *, name: str) -> ImageData:
    if isinstance(source, ImageData):
        return source
    if isinstance(source, tuple):
        images, labels = source[0], torch.as_tensor(source[1])
        labels = _positions(labels, classes, name=name)
        return as_image_data((images, labels), classes=classes, name=name)
    return as_image_data(source.images(), classes=source.classes, name=name)


def _positions(labels: Tensor, classes: tuple[str, ...], *, name: str) -> Tensor:
    """Labels of a pair as positions among classes that are named by numbers.

    Labels counted from 1, or every other digit, are names of such classes; taken for
    positions, or by their rank, they would be those of other images.
    """
    numbers = [int(text) if text.isdecimal() else -1 for text in classes]
    if labels.ndim != 1 or labels.dtype.is_floating_point or min(numbers) < 0:
        return labels
    values = set(labels.tolist())
    named = values <= set(numbers)
    counted = values <= set(range(len(classes)))
    if named and counted and any(numbers[value] != value for value in values):
        raise DataError(
            f"{name}: labels {sorted(values)} are both names and positions of the "
            f"classes {', '.join(classes)}: give an ImageData with its class names"
        )
    if counted:
        return labels
    if not named:
        raise DataError(
            f"{name}: labels {min(values)}..{max(values)} are neither names nor "
            f"positions of the classes {', '.join(classes)}: number them 0 to "
            f"{len(classes) - 1}"
        )
    position = {number: index for index, number in enumerate(numbers)}
    return torch.tensor([position[value] for value in labels.tolist()])


def flip_of(train: Source) -> bool:
    """Whether a mirrored image keeps its meaning, by the run that condensed the set."""
    metadata = getattr(train, "metadata", None)
    config = metadata.get("config") if isinstance(metadata, Mapping) else None
    data = config.get("data") if isinstance(config, Mapping) else None
    flip = data.get("flip") if isinstance(data, Mapping) else None
    return flip if isinstance(flip, bool) else True


def statistics_of(train: Source, data: ImageData) -> PixelStatistics:
    """The normalisation a training set carries, else that of its images."""
    carried = getattr(train, "statistics", None)
    carried = carried() if callable(carried) else carried
    return carried if isinstance(carried, PixelStatistics) else data.statistics()
