"""The images of an experience as pixels, and what these and their labels stand for.

Shape legend: N images, Y classes, C H W image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from avalanche_plugin.checks import require_image, require_samples
from condense_core import DataError, ImageData
from condense_core.data import to_bytes

Key = tuple[int, int]  # (label, task): with several heads a label alone is ambiguous


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The interval of model-input values that pixels in [0, 1] stand for.

    Attributes:
        low: Smallest value of each channel.
        high: Largest value of each channel.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, images_NCHW: Tensor) -> Self:
        """The range of each channel of some images."""
        values_CN = images_NCHW.transpose(0, 1).flatten(1)
        low, high = (v.tolist() for v in values_CN.aminmax(dim=1))
        return cls(tuple(low), tuple(high))

    def union(self, other: "ValueRange") -> "ValueRange":
        """The smallest range that contains both."""
        return ValueRange(
            tuple(map(min, self.low, other.low)),
            tuple(map(max, self.high, other.high)),
        )

    def to_pixels(self, images_NCHW: Tensor) -> Tensor:
        """Model-input values to uint8 pixels."""
        low, span = self.affine(images_NCHW.device)
        return to_bytes((images_NCHW - low) / span)

    def from_pixels(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 1] to model-input values."""
        low, span = self.affine(images_NCHW.device)
        return images_NCHW * span + low

    def affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Low end and span, (C, 1, 1) each: a value is low + pixel * span.

        The span of a constant channel is 1.
        """
        low, high = (
            torch.tensor(v, device=device).view(-1, 1, 1) for v in (self.low, self.high)
        )
        return low, torch.where(high > low, high - low, torch.ones_like(high))


class LabelledImages(NamedTuple):
    """Images to condense.

    Attributes:
        data: As pixels, with labels from 0.
        keys: (label, task) of the classes, in the order of these labels.
        values: Range that the pixels stand for.
    """

    data: ImageData
    keys: tuple[Key, ...]
    values: ValueRange


def labelled_images(
    images_NCHW: Tensor, labels_N: Tensor, tasks_N: Tensor
) -> LabelledImages:
    """An experience in model-input space as pixels, with its keys and value range.

    Raises:
        DataError: It is empty, its samples are not images, labels are missing, or
            pixels are not finite.
    """
    require_image(tuple(images_NCHW.shape[1:]))
    require_samples(len(images_NCHW))
    for name, given in (("labels", labels_N), ("task labels", tasks_N)):
        if given.shape != (len(images_NCHW),) or given.is_floating_point():
            raise DataError(
                f"{name} of shape {tuple(given.shape)} and type {given.dtype} do not "
                f"fit {len(images_NCHW)} images: give one integer per image"
            )
    images_NCHW = images_NCHW.float()
    if not torch.isfinite(images_NCHW).all():
        raise DataError("an experience has NaN or infinite pixels: clean it first")
    columns = [given.to(images_NCHW.device) for given in (labels_N, tasks_N)]
    pairs_N2 = torch.stack(columns, dim=1).long()
    keys_Y2, index_N = torch.unique(pairs_N2, dim=0, return_inverse=True)
    keys = tuple((label, task) for label, task in keys_Y2.tolist())
    values = ValueRange.of(images_NCHW)
    data = ImageData(
        images=values.to_pixels(images_NCHW),
        labels=index_N,
        classes=class_names(keys),
        name="experience",
    )
    return LabelledImages(data, keys, values)


def class_names(keys: Sequence[Key]) -> tuple[str, ...]:
    """Class names of the artefact: "label/task"."""
    return tuple(f"{label}/{task}" for label, task in keys)
