"""One stored generator: compressed bytes, and what its labels and values mean.

Shape legend: N images, Y classes, C H W image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from condense_core import CondensedDataset, DataError, ImageData
from condense_core.artefact.compact import pack, unpack
from condense_core.data import to_bytes
from condense_core.errors import ArtefactError

Key = tuple[int, int]  # (label, task): with several heads a label alone is ambiguous


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The interval that pixels of [0, 1] stand for in model-input space.

    Attributes:
        low: For each channel the smallest value.
        high: The largest.
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
        """The smallest range that holds both."""
        return ValueRange(
            tuple(map(min, self.low, other.low)),
            tuple(map(max, self.high, other.high)),
        )

    def to_pixels(self, images_NCHW: Tensor) -> Tensor:
        """Model-input values to uint8 pixels."""
        low, span = self._affine(images_NCHW.device)
        return to_bytes((images_NCHW - low) / span)

    def from_pixels(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 1] to model-input values."""
        low, span = self._affine(images_NCHW.device)
        return images_NCHW * span + low

    def _affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        low, high = (
            torch.tensor(v, device=device).view(-1, 1, 1) for v in (self.low, self.high)
        )
        return low, torch.where(high > low, high - low, torch.ones_like(high))


@dataclass(frozen=True, slots=True)
class Slot:
    """One stored generator.

    Attributes:
        packed: The packed artefact: the bytes that are really kept.
        keys: (label, task) of its classes, in the order of its labels.
        values: Range of its images in model-input space.
    """

    packed: bytes
    keys: tuple[Key, ...]
    values: ValueRange

    @classmethod
    def pack(
        cls, condensed: CondensedDataset, keys: tuple[Key, ...], values: ValueRange
    ) -> Self:
        """Keep the smallest form of an artefact."""
        return cls(pack(condensed), keys, values)

    def unpack(self, device: str | torch.device) -> CondensedDataset:
        """The artefact.

        Raises:
            ArtefactError: The bytes are damaged.
        """
        condensed = unpack(self.packed, device=device)
        if condensed.spec.num_classes != len(self.keys):
            raise ArtefactError(
                f"a stored generator has {condensed.spec.num_classes} classes, its "
                f"state names {len(self.keys)}: load another state"
            )
        return condensed

    def missed_energy(self, condensed: CondensedDataset) -> float:
        """Mean square of what the images miss, in model-input units; 0 if not known.

        Of the dispersion that was measured when the generator was trained: see
        `condense_core.synthesiser.GeneratorSynthesiser.observe`.
        """
        phi_Y = condensed.tensors.get("dispersion")
        if phi_Y is None:
            return 0.0
        images, labels = condensed.images()
        phi_N = phi_Y.to(images).clamp_min(0.0)[labels]
        variance = phi_N.view(-1, 1, 1, 1) * images * (1.0 - images)
        _, span = self.values._affine(images.device)
        return float((variance * span.square()).mean())

    @property
    def nbytes(self) -> int:
        """Bytes stored: the artefact, two integers a class, two floats a channel."""
        return len(self.packed) + side_bytes(len(self.keys), len(self.values.low))

    def state_dict(self) -> dict[str, Any]:
        """As tensors."""
        return {
            "artefact": torch.frombuffer(bytearray(self.packed), dtype=torch.uint8),
            "keys": torch.tensor(self.keys, dtype=torch.int64),
            "range": torch.tensor([self.values.low, self.values.high]),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """From `state_dict`.

        Raises:
            ArtefactError: An entry is missing or of another kind.
        """
        try:
            low, high = state["range"].tolist()
            keys = tuple((int(label), int(task)) for label, task in state["keys"])
            packed = state["artefact"].cpu().numpy().tobytes()
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ArtefactError(
                f"the state of a stored generator is damaged ({error!r:.60}): load "
                "another"
            ) from error
        return cls(packed, keys, ValueRange(tuple(low), tuple(high)))


def side_bytes(classes: int, channels: int) -> int:
    """Bytes kept beside the artefact: int64 labels and tasks, float32 value ranges."""
    return 16 * classes + 8 * channels


def as_image_data(
    images_NCHW: Tensor, labels_N: Tensor, tasks_N: Tensor
) -> tuple[ImageData, tuple[Key, ...], ValueRange]:
    """An experience in model-input space as pixels, with its keys and value range.

    Raises:
        DataError: It is empty, holds no images, has no labels, or holds NaN.
    """
    if images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3):
        raise DataError(
            f"samples of shape {tuple(images_NCHW.shape[1:])} are no images: replay by "
            "condensation needs (C, H, W) with 1 or 3 channels; flatten inside the "
            "model instead of in a transform"
        )
    if len(images_NCHW) == 0:
        raise DataError("an experience without samples: skip it")
    for name, given in (("labels", labels_N), ("task labels", tasks_N)):
        if given.shape != (len(images_NCHW),) or given.is_floating_point():
            raise DataError(
                f"{name} of shape {tuple(given.shape)} and type {given.dtype} do not "
                f"fit {len(images_NCHW)} images: give one whole number for each"
            )
    images_NCHW = images_NCHW.float()
    if not torch.isfinite(images_NCHW).all():
        raise DataError("an experience holds NaN or infinite pixels: clean it first")
    pairs_N2 = torch.stack([labels_N, tasks_N], dim=1).long()
    keys_Y2, index_N = torch.unique(pairs_N2, dim=0, return_inverse=True)
    keys = tuple((label, task) for label, task in keys_Y2.tolist())
    values = ValueRange.of(images_NCHW)
    data = ImageData(
        images=values.to_pixels(images_NCHW),
        labels=index_N,
        classes=class_names(keys),
        name="experience",
    )
    return data, keys, values


def class_names(keys: Sequence[Key]) -> tuple[str, ...]:
    """Names for the artefact: "label/task"."""
    return tuple(f"{label}/{task}" for label, task in keys)
