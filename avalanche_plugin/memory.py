"""A replay memory that keeps generators instead of images, for any framework.

`GeneratorMemory` sees the images of one experience at a time (`observe`), condenses
them with `condense_core` and draws images of every class seen so far (`sample`). An
adapter for a continual-learning framework needs only these two calls, `nbytes` and the
state dict: see `avalanche_plugin.replay`.

Shape legend: N images, Y classes of one generator, C H W image.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_plugin.arithmetic import single_precision
from avalanche_plugin.balance import balanced_labels
from avalanche_plugin.checks import require_positive
from avalanche_plugin.pixels import Key, LabelledImages, labelled_images
from avalanche_plugin.recondense import own_images, warn_of_loss, with_old_classes
from avalanche_plugin.sizes import config_within, limits
from avalanche_plugin.slot import Slot
from condense_core import (
    CondenseConfig,
    CondensedDataset,
    DataError,
    condense,
)
from condense_core.errors import ArtefactError, ConfigError
from condense_core.seeding import derive_seed, make_generator

Policy = Literal["experience", "shared"]
STATE_VERSION = 1
IMAGES_AGAIN = 6000  # per class, to condense a generator again


class GeneratorMemory:
    """Condensed experiences within a fixed number of bytes.

    There are two policies, and both stay within the budget after every `observe`:

    - ``experience``: one generator per experience. Each gets a part of the budget that
      is proportional to its number of classes if those of the whole stream are
      expected, else the budget divided by the expected number of experiences. If
      neither is known, or there are more than expected, all parts are halved whenever
      no room is left, and the stored generators are condensed again, from their own
      images, into half the bytes.
    - ``shared``: one generator for all classes. It is condensed again at each
      experience, from the new images and its own images of the old classes.

    Args:
        budget: Bytes. It may be set to another number while the memory is empty.
        policy: ``experience`` or ``shared``.
        config: Settings of the condensation, or the name of a preset. Sizes in
            ``format`` are replaced by those that fit the budget.
        seed: Seed of everything random.
        device: auto, cpu, cuda or cuda:N: where images are condensed and generated.

    Raises:
        ConfigError: An argument is out of range.

    Example:
        >>> config = CondenseConfig.preset("replay").with_overrides(
        ...     ["pretrain.steps=1"]
        ... )
        >>> memory = GeneratorMemory(20_000, config=config, device="cpu")
        >>> labels = torch.arange(40) % 2
        >>> line = memory.observe(torch.rand(40, 1, 8, 8), labels, labels * 0)
        >>> images, labels, tasks = memory.sample(6, torch.Generator())
        >>> images.shape, sorted(labels.tolist()), memory.nbytes <= 20_000
        (torch.Size([6, 1, 8, 8]), [0, 0, 0, 1, 1, 1], True)
    """

    def __init__(
        self,
        budget: int,
        *,
        policy: Policy = "experience",
        config: str | CondenseConfig = "replay",
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        if policy not in ("experience", "shared"):
            raise ConfigError(f"policy is {policy!r}: choose from experience, shared")
        self.budget = require_positive("budget", budget)
        self.policy: Policy = policy
        self.config = (
            CondenseConfig.preset(config) if isinstance(config, str) else config
        )
        self.seed = seed
        self.device = device
        self.slots: list[Slot] = []
        self.observed = 0
        self._copies: list[CondensedDataset] = []  # unpacked copies, not stored

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return sum(slot.nbytes for slot in self.slots)

    @property
    def classes(self) -> tuple[Key, ...]:
        """(label, task) of every class seen so far, oldest first."""
        return self.classes_beside(None)

    def classes_beside(self, source: str | None) -> tuple[Key, ...]:
        """(label, task) of every class of the generators of other sources."""
        slots = [self.slots[index] for index in self._kept(source)]
        return tuple(dict.fromkeys(key for slot in slots for key in slot.keys))

    @property
    @single_precision()
    def missed_energy(self) -> float:
        """Mean square of what generated images lack, in model-input units.

        The mean over all generators; 0 for an empty memory.
        """
        pairs = zip(self.slots, self._unpacked(), strict=True)
        energies = [slot.missed_energy(condensed) for slot, condensed in pairs]
        return sum(energies) / max(1, len(energies))

    def require(
        self,
        image_shape: tuple[int, int, int],
        keys: tuple[Key, ...],
        *,
        expected: int | None = None,
        expected_classes: Sequence[int] | None = None,
        source: str | None = None,
    ) -> None:
        """Check that the next experience fits, before anything is trained.

        Before the first one of a stream whose classes are expected, check all of them.

        Args:
            image_shape: (C, H, W) of its images.
            keys: (label, task) of its classes.
            expected: As for `observe`.
            expected_classes: As for `observe`.
            source: As for `observe`.

        Raises:
            BudgetError: The budget is too small; the message gives the minimum.
        """
        if self.policy == "shared":
            keys = tuple(dict.fromkeys([*self.classes, *keys]))
            self._config_within(self.budget, image_shape, keys)
            return
        kept = [self.slots[index] for index in self._kept(source)]
        *bounds, limit = limits(
            self.budget,
            [*(slot.keys for slot in kept), keys],
            expected,
            expected_classes,
        )
        self._config_within(limit, image_shape, keys)
        for slot, bound in zip(kept, bounds, strict=True):
            if slot.nbytes > bound:  # it will be condensed again
                self._config_within(bound, image_shape, slot.keys)
        if expected_classes is not None and not self.slots:
            for count in set(expected_classes):
                bound = self.budget * count // sum(expected_classes)
                some = tuple((label, 0) for label in range(count))
                self._config_within(bound, image_shape, some)

    def to(self, device: str | torch.device) -> None:
        """Condense and generate images on ``device`` from now on."""
        if str(device) != str(self.device):
            self.device, self._copies = device, []

    @single_precision()
    def observe(
        self,
        images: Tensor,
        labels: Tensor,
        tasks: Tensor,
        *,
        expected: int | None = None,
        expected_classes: Sequence[int] | None = None,
        source: str | None = None,
    ) -> str:
        """Condense an experience into the memory.

        Args:
            images: (N, C, H, W) floats as the model sees them, in any range.
            labels: int64 (N,).
            tasks: int64 (N,).
            expected: Number of experiences the whole stream has, if known.
            expected_classes: Number of classes of each of its experiences, if known;
                takes the place of ``expected``.
            source: Names what the images are, if they may come again: under the policy
                ``experience`` the generator of the same source is replaced.

        Returns:
            One line that says what was condensed into how many bytes.

        Raises:
            DataError: The images cannot be condensed; the message says why.
            BudgetError: The budget is too small; the message gives the minimum.
        """
        started = time.monotonic()
        new = labelled_images(images, labels, tasks)
        kept: list[Slot] = []
        limit = self.budget
        if self.policy == "experience":
            stay = self._kept(source)
            of_each = [*(self.slots[index].keys for index in stay), new.keys]
            *bounds, limit = limits(self.budget, of_each, expected, expected_classes)
            kept = self._all_within(dict(zip(stay, bounds, strict=True)))
        elif self.slots:
            (slot,), (condensed,) = self.slots, self._unpacked()
            new = with_old_classes(new, slot, condensed, rng=self._rng(0))
            source = source if source == slot.source else None
        slot = self._condense(new, limit, "memory", source=source)
        self.slots, self._copies = [*kept, slot], []
        self.observed += 1
        codes = self._unpacked()[-1].images_per_class
        return (
            f"condensed {len(slot.keys)} classes into {codes} codes, "
            f"{slot.nbytes / 1000:.0f} KB, {time.monotonic() - started:.0f} s "
            f"(memory: {self.nbytes / 1000:.0f} of {self.budget / 1000:.0f} KB)"
        )

    @torch.no_grad()
    @single_precision()
    def sample(
        self,
        count: int,
        rng: torch.Generator,
        *,
        dispersed: bool = False,
        only: Collection[Key] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw images, balanced over the classes seen so far.

        Args:
            count: Number of images, at least 1.
            rng: On the CPU; the only source of randomness.
            dispersed: Whether to add noise in place of what the generators miss, for
                a network that sees generated images only.
            only: (label, task) of the classes to draw, at least one of those seen; None
                is all of them.

        Returns:
            Images (count, C, H, W) in model-input space, labels and tasks, on the
            memory's device.

        Raises:
            DataError: Nothing has been observed yet.
        """
        if not self.slots:
            raise DataError("the memory is empty: observe an experience first")
        keys = [slot.keys for slot in self.slots]
        wanted = balanced_labels(keys, count, rng, only=only)
        parts = [
            slot.draw(condensed, labels_of_slot, dispersed=dispersed, rng=rng)
            for slot, condensed, labels_of_slot in zip(
                self.slots, self._unpacked(), wanted, strict=True
            )
            if labels_of_slot
        ]
        images, labels, tasks = (torch.cat(c) for c in zip(*parts, strict=True))
        return images, labels, tasks

    def state_dict(self) -> dict[str, Any]:
        """What is stored, as tensors and plain values (weights-only loading)."""
        return {
            "version": STATE_VERSION,
            "budget": self.budget,
            "policy": self.policy,
            "observed": self.observed,
            "slots": [slot.state_dict() for slot in self.slots],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`.

        Raises:
            ArtefactError: The state is of another version or damaged.
        """
        if state.get("version") != STATE_VERSION:
            raise ArtefactError(
                f"memory state of version {state.get('version')!r:.40} is not "
                f"supported (this is {STATE_VERSION}): update gencondense"
            )
        missing = {"budget", "policy", "observed", "slots"} - state.keys()
        if missing:
            raise ArtefactError(
                f"the memory state has no {sorted(missing)[0]!r}: load another state"
            )
        slots = [Slot.from_state(stored) for stored in state["slots"]]
        self._copies = [slot.unpack(self.device) for slot in slots]
        self.slots = slots
        self.budget, self.policy = state["budget"], state["policy"]
        self.observed = state["observed"]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle only what is stored, not the unpacked copies."""
        return {**self.__dict__, "_copies": []}

    def _kept(self, source: str | None) -> list[int]:
        """Places of the generators that stay when ``source`` is condensed."""
        places = range(len(self.slots))
        return [i for i in places if source is None or self.slots[i].source != source]

    def _all_within(self, bounds: dict[int, int]) -> list[Slot]:
        """The generators of some places, condensed again where too large."""
        again = [i for i, bound in bounds.items() if self.slots[i].nbytes > bound]
        warn_of_loss(len(again), len(self.slots))
        return [
            self._within(bound, i) if i in again else self.slots[i]
            for i, bound in bounds.items()
        ]

    def _within(self, limit: int, index: int) -> Slot:
        """A stored generator, condensed again from its own images."""
        slot = self.slots[index]
        own = own_images(
            slot,
            self._unpacked()[index],
            per_class=IMAGES_AGAIN,
            values=slot.values,
            rng=self._rng(index),
        )
        return self._condense(own, limit, "again", index, source=slot.source)

    def _rng(self, index: int) -> torch.Generator:
        """For drawing the images that a generator is condensed again from."""
        return make_generator(self.seed, "own-images", self.observed, index)

    def _condense(
        self,
        images: LabelledImages,
        limit: int,
        *purpose: str | int,
        source: str | None,
    ) -> Slot:
        config = self._config_within(limit, images.data.image_shape, images.keys)
        seed = derive_seed(self.seed, *purpose, self.observed)
        config = replace(config, seed=seed)
        condensed = condense(images.data, config, device=self.device, progress=False)
        slot = Slot.pack(condensed, images.keys, images.values, source)
        assert slot.nbytes <= limit, (slot.nbytes, limit)
        return slot

    def _config_within(
        self, limit: int, image_shape: tuple[int, int, int], keys: tuple[Key, ...]
    ) -> CondenseConfig:
        shares = self.policy == "shared"
        return config_within(
            limit,
            self.config,
            image_shape=image_shape,
            keys=keys,
            budget=self.budget,
            alternative="" if shares else ", or share one generator (policy='shared')",
        )

    def _unpacked(self) -> list[CondensedDataset]:
        """The stored generators, unpacked."""
        if not self._copies:
            self._copies = [slot.unpack(self.device) for slot in self.slots]
        return self._copies
