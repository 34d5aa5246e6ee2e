"""What the memories share: parts of equal bytes, and class-balanced draws.

Shape legend: N images, B batch, K classes of an experience, C H W image.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from condense_core.seeding import make_generator

Pair = tuple[int, int]  # (label, task)
MISSED_BYTES = 2  # of a `Part.missed`, as a half
MEASURED_ON = 500  # images of a class that it is measured on


@dataclass(frozen=True)
class Part:
    """What is kept of one experience.

    Attributes:
        pairs: The K classes, as (label, task).
        image_shape: (C, H, W).
        low: Smallest value of the images; ``high`` is the largest.
        tensors: All that is stored and counted, but for ``missed``.
        missed: Mean variance by pixel that draws lack of real images, if measured.
    """

    pairs: tuple[Pair, ...]
    image_shape: tuple[int, int, int]
    low: float
    high: float
    tensors: dict[str, Tensor]
    missed: float | None = None

    @property
    def nbytes(self) -> int:
        size = sum(tensor.nbytes for tensor in self.tensors.values())
        return size if self.missed is None else size + MISSED_BYTES

    def to_unit(self, images: Tensor) -> Tensor:
        """From the range of the data to [0, 1]."""
        return (images - self.low) / max(self.high - self.low, 1e-6)

    def from_unit(self, images: Tensor) -> Tensor:
        return images * (self.high - self.low) + self.low

    def filled(self, tensors: dict[str, Tensor]) -> "Part":
        """The same experience with ``tensors`` stored."""
        stored = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
        return replace(self, tensors=stored)


class ExperienceMemory(ABC):
    """One `Part` for each experience, all within one budget of bytes.

    Args:
        mem_bytes: Bound of `nbytes`. An experience gets an equal share of it: of all
            experiences if their number is known, else of those seen so far, and then
            older parts shrink.
        seed: Of everything drawn while observing.

    Attributes:
        measures_missed: Whether it says how much its draws lack, to borrow as much
            detail.
    """

    measures_missed = False

    def __init__(self, *, mem_bytes: int, seed: int = 0) -> None:
        self.mem_bytes = mem_bytes
        self.seed = seed
        self.parts: list[Part] = []
        self._ready: dict[int, Any] = {}  # decoded parts, not stored

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def classes(self) -> tuple[Pair, ...]:
        return tuple(dict.fromkeys(pair for part in self.parts for pair in part.pairs))

    @property
    def missed_energy(self) -> float:
        """Mean variance that draws lack of real images, by pixel."""
        missed = [part.missed or 0.0 for part in self.parts]
        return sum(missed) / max(1, len(missed))

    def _usable(self, share: int) -> int:
        return share - MISSED_BYTES if self.measures_missed else share

    def _measured(self, part: Part, groups: dict[Pair, Tensor]) -> Part:
        """The newest part with what its draws lack: the same for every model."""
        generator, ready = self._generator("missed"), self._decode(part)
        lacking = []
        with torch.no_grad():
            for position, real in enumerate(groups.values()):
                drawn = self._draw(part, ready, position, MEASURED_ON, generator)
                lacking.append(real.var(dim=0).mean() - drawn.var(dim=0).mean())
        missed = torch.stack(lacking).mean().clamp_min(0.0).half()
        return replace(part, missed=float(missed))

    def observe(
        self,
        images: Tensor,
        labels: Tensor,
        tasks: Tensor,
        *,
        expected: int | None = None,
    ) -> str:
        """Remember one experience.

        Args:
            images: Float (N, C, H, W).
            labels: Int64 (N,).
            tasks: Int64 (N,).
            expected: Number of experiences of the stream, if known.

        Raises:
            ValueError: The share of an experience is too small.
        """
        seen = len(self.parts) + 1
        share = self.mem_bytes // max(expected or 0, seen)
        for index, part in enumerate(self.parts):
            if part.nbytes > share:
                self.parts[index] = self._shrink(part, self._usable(share))
        images = images.detach().float()
        groups: dict[Pair, Tensor] = {}
        for label, task in torch.stack([labels, tasks], dim=1).unique(dim=0).tolist():
            groups[label, task] = images[(labels == label) & (tasks == task)]
        empty = Part(
            pairs=tuple(groups),
            image_shape=tuple(images.shape[1:]),
            low=float(images.min()),
            high=float(images.max()),
            tensors={},
        )
        part = self._fit(empty, list(groups.values()), self._usable(share))
        self.parts.append(part)
        if self.measures_missed:
            self.parts[-1] = self._measured(part, groups)
        self._ready.clear()
        assert self.nbytes <= self.mem_bytes
        kept = self.parts[-1].nbytes
        return f"{type(self).__name__}: {len(groups)} classes in {kept:,} bytes"

    @torch.no_grad()
    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``count`` images (B, C, H, W), labels (B,) and tasks (B,).

        All classes are drawn equally often; the remainder goes to random classes.
        """
        pairs = self.classes
        each, rest = divmod(count, len(pairs))
        counts = torch.full((len(pairs),), each)
        counts[torch.randperm(len(pairs), generator=generator)[:rest]] += 1
        images, labels, tasks = [], [], []
        for pair, number in zip(pairs, counts.tolist(), strict=True):
            if number == 0:
                continue
            index = self._holder(pair, generator)
            part = self.parts[index]
            if index not in self._ready:
                self._ready[index] = self._decode(part)
            position = part.pairs.index(pair)
            images.append(
                self._draw(part, self._ready[index], position, number, generator)
            )
            labels.append(torch.full((number,), pair[0]))
            tasks.append(torch.full((number,), pair[1]))
        return torch.cat(images), torch.cat(labels), torch.cat(tasks)

    def _holder(self, pair: Pair, generator: torch.Generator) -> int:
        holders = [i for i, part in enumerate(self.parts) if pair in part.pairs]
        if len(holders) == 1:
            return holders[0]
        return holders[int(torch.randint(len(holders), (1,), generator=generator))]

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [vars(part) for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.parts = [Part(**fields) for fields in state["parts"]]
        self._ready.clear()

    def _generator(self, purpose: str) -> torch.Generator:
        return make_generator(self.seed, type(self).__name__, purpose, len(self.parts))

    @abstractmethod
    def _fit(self, empty: Part, groups: list[Tensor], share: int) -> Part:
        """Fill ``empty`` with ``share`` bytes from K classes' images (N, C, H, W)."""

    @abstractmethod
    def _shrink(self, part: Part, share: int) -> Part:
        """The same part in at most ``share`` bytes."""

    @abstractmethod
    def _decode(self, part: Part) -> Any:
        """What `_draw` needs, computed once."""

    @abstractmethod
    def _draw(
        self,
        part: Part,
        ready: Any,
        position: int,
        count: int,
        generator: torch.Generator,
    ) -> Tensor:
        """``count`` images (B, C, H, W) of the class at ``position``."""


def too_small(share: int, needed: int) -> ValueError:
    return ValueError(
        f"{share} bytes an experience are too few: this memory needs {needed}"
    )
