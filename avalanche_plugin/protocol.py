"""What a replay plugin needs of a memory: the contract between the two.

`avalanche_plugin.memory.GeneratorMemory` is one; a memory of your own that has these
members can be passed to the plugin in its place.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from avalanche_plugin.pixels import Key


class ReplayMemory(Protocol):
    """What a replay plugin needs of a memory."""

    @property
    def nbytes(self) -> int:
        """Bytes stored."""

    @property
    def classes(self) -> tuple[Key, ...]:
        """(label, task) of every class seen so far."""

    @property
    def missed_energy(self) -> float:
        """Mean square of what its images miss of real ones, in model-input units."""

    def observe(
        self,
        images: Tensor,
        labels: Tensor,
        tasks: Tensor,
        *,
        expected: int | None = None,
    ) -> str:
        """Take in an experience; returns one line that says what was done."""

    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and tasks, balanced over the classes seen so far."""

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
