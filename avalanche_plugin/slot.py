"""One stored generator: its bytes, and what its labels and pixel values stand for.

Shape legend: N images, Y classes, C H W image.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from avalanche_plugin.pixels import Key, ValueRange
from condense_core import CondensedDataset
from condense_core.artefact.compact import pack, unpack
from condense_core.errors import ArtefactError


@dataclass(frozen=True, slots=True)
class Slot:
    """One stored generator.

    Attributes:
        packed: The packed artefact, as it is stored.
        keys: (label, task) of its classes, in the order of its labels.
        values: Range of its images in model-input space.
        source: Name of what it was condensed from; None if unknown or several.
    """

    packed: bytes
    keys: tuple[Key, ...]
    values: ValueRange
    source: str | None = None

    @classmethod
    def pack(
        cls,
        condensed: CondensedDataset,
        keys: tuple[Key, ...],
        values: ValueRange,
        source: str | None = None,
    ) -> Self:
        """The slot of an artefact, in its smallest form."""
        return cls(pack(condensed), keys, values, source)

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
        """Mean square of what the images lack, in model-input units; 0 if unknown.

        Computed from the dispersion that was measured when the generator was trained:
        see `condense_core.synthesiser.GeneratorSynthesiser.observe`.
        """
        dispersion_Y = condensed.tensors.get("dispersion")
        if dispersion_Y is None:
            return 0.0
        images, labels = condensed.images()
        dispersion_N = dispersion_Y.to(images).clamp_min(0.0)[labels]
        variance = dispersion_N.view(-1, 1, 1, 1) * images * (1.0 - images)
        _, span = self.values.affine(images.device)
        return float((variance * span.square()).mean())

    def draw(
        self,
        condensed: CondensedDataset,
        labels: list[int],
        *,
        dispersed: bool,
        rng: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images of given classes, each from a new code, in a random order.

        Args:
            condensed: The artefact, unpacked.
            labels: Of the artefact, one for each image.
            dispersed: Whether to add noise in place of what the generator misses.
            rng: On the CPU; the only source of randomness.

        Returns:
            Images (N, C, H, W) in model-input space, their labels and tasks (N,).
        """
        pixels, drawn = condensed.sample(
            len(labels),
            classes=labels,
            fresh=True,
            dispersed=dispersed,
            generator=rng,
        )
        keys_N2 = torch.tensor(self.keys, device=drawn.device)[drawn]
        labels_N, tasks_N = keys_N2.unbind(1)
        return self.values.from_pixels(pixels), labels_N, tasks_N

    @property
    def nbytes(self) -> int:
        """Bytes stored: the artefact, its labels and tasks, and its value range.

        The name of the source, of which nothing is drawn, is not counted.
        """
        return len(self.packed) + side_bytes(len(self.keys), len(self.values.low))

    def state_dict(self) -> dict[str, Any]:
        """The slot as tensors, and the name of its source."""
        return {
            "artefact": torch.frombuffer(bytearray(self.packed), dtype=torch.uint8),
            "keys": torch.tensor(self.keys, dtype=torch.int64),
            "range": torch.tensor([self.values.low, self.values.high]),
            "source": self.source,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """A slot from the result of `state_dict`.

        Raises:
            ArtefactError: An entry is missing or of the wrong type.
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
        values = ValueRange(tuple(low), tuple(high))
        return cls(packed, keys, values, state.get("source"))


def side_bytes(classes: int, channels: int) -> int:
    """Bytes kept beside the artefact: int64 labels and tasks, float32 value ranges."""
    return 16 * classes + 8 * channels
