"""The interface between the replay plugin and its memory.

`avalanche_plugin.memory.GeneratorMemory` implements it. A memory of your own with these
members can be passed to the plugin instead.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from avalanche_plugin.pixels import Key


class ReplayMemory(Protocol):
    """What the replay plugin needs from a memory."""

    @property
    def nbytes(self) -> int:
        """Bytes stored."""

    @property
    def classes(self) -> tuple[Key, ...]:
        """(label, task) of every class seen so far."""

    @property
    def missed_energy(self) -> float:
        """Mean square of what its images lack, in model-input units."""

    def observe(
        self,
        images: Tensor,
        labels: Tensor,
        tasks: Tensor,
        *,
        expected: int | None = None,
    ) -> str:
        """Store an experience; returns one line that says what was done."""

    def sample(
        self, count: int, rng: torch.Generator, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and tasks, balanced over the classes seen so far."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
