"""Labelled images.

Images are in memory or, from a cache, in a mapped file (`condense_core.data.mapped`).

Pixels are kept as uint8 from reading to drawing: a quarter of the memory of float32,
and exact. They become float in [0, 1] only for the few images of one step.

Shape legend: B batch, N data set, Y classes, C H W image.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from condense_core.data.convert import (
    index_labels,
    quantise,
    read_samples,
)
from condense_core.data.mapped import chunks, gather
from condense_core.data.options import CHANNELS
from condense_core.errors import DataError

MIN_STD = 1e-3
_CHUNK = 4096  # images looked at together: bounds the temporary memory


@lru_cache(maxsize=32)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Cached because building a tensor from Python numbers waits for a GPU; outside
    # inference mode because the cached tensor may be used in a backward pass later.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).reshape(-1, 1, 1)


@dataclass(frozen=True, slots=True)
class PixelStatistics:
    """Mean and standard deviation of each channel, in units of [0, 1] pixels.

    Raises:
        DataError: the two differ in length, or a deviation is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the statistics can be divided by."""
        if len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise DataError(
                f"pixel statistics mean={self.mean}, std={self.std} are unusable: give "
                "one mean and one positive std per channel"
            )

    def normalise(self, images: Tensor) -> Tensor:
        """Zero mean and unit variance per channel; differentiable.

        Args:
            images: Float (..., C, H, W) in [0, 1].

        Raises:
            DataError: ``images`` has another number of channels.
        """
        if images.shape[-3] != len(self.mean):
            raise DataError(
                f"images of shape {tuple(images.shape)} do not have the "
                f"{len(self.mean)} channels of the statistics: read them with "
                f"data.channels={len(self.mean)}"
            )
        mean, std = (_per_channel(v, images.device) for v in (self.mean, self.std))
        return (images - mean).div_(std)  # in place: a large temporary costs more


@dataclass(frozen=True, slots=True)
class KnownFacts:
    """What a cache has worked out about a set, so that no run reads it all again.

    Attributes:
        fingerprint: As `ImageData.fingerprint` computes it.
        statistics: As `ImageData.statistics` computes them.
    """

    fingerprint: str
    statistics: PixelStatistics


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageData:
    """A labelled image set, validated when it is built.

    Attributes:
        images: uint8 (N, C, H, W) with C 1 or 3.
        labels: int64 (N,), values 0..Y-1, on the same device.
        classes: Y names; a class may be without images (a subset, a test split).
        name: Where the images come from, for messages and reports.

    Raises:
        DataError: the set is empty, or a shape, type or label does not fit.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "custom"
    # Not an argument: `dataclasses.replace` with other content thus forgets it.
    _known: KnownFacts | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        """Check everything that later code relies on."""
        shape, dtype = tuple(self.images.shape), self.images.dtype
        if len(shape) != 4 or dtype != torch.uint8:
            raise DataError(
                f"{self.name}: images of shape {shape} and type {dtype} are not uint8 "
                "(N, C, H, W): convert them with as_image_data((images, labels))"
            )
        if self.images.numel() == 0:
            raise DataError(
                f"{self.name}: empty data set, images have shape {shape}: give at "
                "least one image"
            )
        if shape[1] not in (1, 3):
            last = shape[3] in (1, 3)
            remedy = "images.permute(0, 3, 1, 2)" if last else CHANNELS
            raise DataError(
                f"{self.name}: images of shape {shape} have {shape[1]} channels, not 1 "
                f"or 3: convert them with {remedy}"
            )
        if self.labels.shape != shape[:1] or self.labels.dtype != torch.int64:
            raise DataError(
                f"{self.name}: labels of shape {tuple(self.labels.shape)} and type "
                f"{self.labels.dtype} do not fit {shape[0]} images: give one int64 "
                "label per image"
            )
        if self.labels.device != self.images.device:
            raise DataError(
                f"{self.name}: images are on {self.images.device}, labels on "
                f"{self.labels.device}: move both to one device"
            )
        low, high = (int(v) for v in self.labels.aminmax())
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{self.name}: labels {low}..{high} do not fit {len(self.classes)} "
                "class names: use as_image_data((images, labels)), which maps them"
            )
        # One memory layout, whatever array the images came from: convolutions choose
        # their algorithm by strides, and another algorithm rounds differently. Those of
        # a one-channel (N, H, W, 1) array survive a permute and `contiguous`.
        standard = self.images.reshape(-1).view(shape)
        object.__setattr__(self, "images", standard)

    def __len__(self) -> int:
        """Number of images N."""
        return self.images.shape[0]

    @property
    def num_classes(self) -> int:
        """Number of classes Y, with or without images."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def counts(self) -> Tensor:
        """Images per class, int64 (Y,)."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    def to(self, device: torch.device | str) -> "ImageData":
        """The same set with its tensors on ``device``."""
        moved = replace(
            self, images=self.images.to(device), labels=self.labels.to(device)
        )
        return moved if self._known is None else moved.with_known(self._known)

    def with_known(self, facts: KnownFacts) -> "ImageData":
        """The same set, trusting ``facts`` instead of reading every image for them."""
        told = replace(self)
        object.__setattr__(told, "_known", facts)
        return told

    def renamed(self, name: str) -> "ImageData":
        """The same set under another name."""
        other = replace(self, name=name)
        return other if self._known is None else other.with_known(self._known)

    def subset(self, index: Tensor) -> "ImageData":
        """The images at ``index`` (int64 positions or bool mask), copied to memory.

        The classes stay, also those that are left without images.
        """
        index = index.to(self.images.device)
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
        images = gather(self.images, index)
        return replace(self, images=images, labels=self.labels[index])

    def thin(self, most: int, generator: torch.Generator) -> "ImageData":
        """At most ``most`` images of each class, chosen at random, in their order.

        Args:
            most: At least 1.
            generator: On the CPU.
        """
        labels = self.labels.cpu()
        shuffled = torch.randperm(len(labels), generator=generator)
        by_class = shuffled[labels[shuffled].argsort(stable=True)]
        counts = torch.bincount(labels, minlength=self.num_classes)
        rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
        return self.subset(by_class[rank < most].sort().values)

    def fingerprint(self) -> str:
        """SHA-256 of shape, pixels, labels and class names; the same on any device."""
        if self._known is not None:
            return self._known.fingerprint
        head = json.dumps([list(self.images.shape), list(self.classes)])
        digest = hashlib.sha256(head.encode())
        for chunk in chain(chunks(self.images, _CHUNK), [self.labels]):
            digest.update(chunk.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def statistics(self) -> PixelStatistics:
        """Mean and deviation per channel; a constant channel gets `MIN_STD`."""
        if self._known is not None:
            return self._known.statistics
        return statistics_of_histograms(histograms(self.images))


def histograms(images: Tensor) -> Tensor:
    """How often each of the 256 values occurs in each channel: (C, 256)."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in chunks(images, _CHUNK):
        for channel, count in enumerate(counts):
            count += torch.bincount(chunk[:, channel].flatten(), minlength=256).cpu()
    return counts


def statistics_of_histograms(counts_C256: Tensor) -> PixelStatistics:
    """Mean and deviation per channel; exact, whatever the order of the images."""
    grey = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for count in counts_C256.double():
        weight = count / count.sum()
        centre = (weight * grey).sum()
        mean.append(float(centre))
        variance = (weight * (grey - centre) ** 2).sum()
        std.append(max(float(variance.sqrt()), MIN_STD))
    return PixelStatistics(tuple(mean), tuple(std))


def require_images(data: ImageData) -> None:
    """Raise `DataError` naming the first class that has no image."""
    for label, count in enumerate(data.counts.tolist()):
        if count == 0:
            raise DataError(
                f"{data.name}: class {data.classes[label]!r} has no images: add some "
                "or remove the class"
            )


def valid_text(name: str) -> str:
    """A class name as an artefact holds it: names of folders need not be Unicode."""
    return name.encode(errors="replace").decode()


def as_image_data(
    source: Any, *, classes: Sequence[str] | None = None, name: str = "custom"
) -> ImageData:
    """Any labelled images as `ImageData`.

    Args:
        source: An `ImageData`; a pair (images, labels) of tensors or arrays, images
            (N, C, H, W) or (N, H, W), uint8 or float in [0, 1]; or a map-style data
            set whose samples start with (image, label), each image a PIL image, an
            (H, W) or (H, W, C) array or a (C, H, W) tensor. Every sample is read once,
            so a random transform would be frozen into the pixels.
        classes: Names of the classes, in label order. Without it the labels become
            0..Y-1 in sorted order and the original values become the names.
        name: For messages and reports.

    Raises:
        DataError: the images or labels are empty, inconsistent or out of range.
    """
    if isinstance(source, ImageData):
        if classes is None:
            return source
        return replace(source, classes=tuple(classes))
    if isinstance(source, TensorDataset) and len(source.tensors) >= 2:
        source = source.tensors[:2]
    known = None
    is_pair = isinstance(source, tuple | list) and len(source) == 2
    if is_pair and isinstance(source[0], Tensor | np.ndarray):
        images = torch.as_tensor(source[0]).detach()
        labels = source[1]
        values = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
        if images.ndim == 3:
            images = images[:, None]
    else:
        images, values = read_samples(source, name=name)
        listed = getattr(source, "classes", None)
        known = listed if isinstance(listed, tuple | list) else None
    if len(images) == 0:
        raise DataError(f"{name}: empty data set, no images: give at least one image")
    if values.ndim == 1 and len(values) != len(images):
        raise DataError(
            f"{name}: {len(images)} images but {len(values)} labels: give one label "
            "per image"
        )
    indexed, names = index_labels(values, name=name, classes=classes, known=known)
    return ImageData(
        images=quantise(images, name=name).contiguous(),
        labels=indexed.to(images.device),
        classes=names,
        name=name,
    )
