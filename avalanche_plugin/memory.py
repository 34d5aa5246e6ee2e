"""A replay memory that keeps generators instead of images. Knows no framework.

`GeneratorMemory` sees the images of one experience at a time (`observe`), condenses
them with `condense_core` and draws images of every class seen so far (`sample`). An
adapter for a continual-learning framework needs no more than these two calls, `nbytes`
and the state dict: see `avalanche_plugin.replay`.

Shape legend: N images, Y classes of one generator, C H W image.
"""

import time
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from avalanche_plugin.slot import (
    Key,
    Slot,
    ValueRange,
    as_image_data,
    class_names,
    side_bytes,
)
from condense_core import (
    CondenseConfig,
    CondensedDataset,
    DataError,
    ImageData,
    condense,
)
from condense_core.artefact.budget import BudgetError, fit
from condense_core.artefact.compact import packed_size
from condense_core.data import to_unit
from condense_core.errors import ArtefactError, ConfigError
from condense_core.seeding import derive_seed, make_generator

Policy = Literal["experience", "shared"]
Replay = Literal["fresh", "fixed"]
STATE_VERSION = 1
SAMPLES = 512  # generated at once
IMAGES_AGAIN = 6000  # of each class, when a generator is condensed again


class GeneratorMemory:
    """Condensed experiences within a fixed number of bytes.

    Two policies, both bounded after every `observe`:

    - ``experience``: one generator for each experience, each within an equal share of
      the budget. The share is the budget over the number of experiences to expect. If
      that is unknown or exceeded, it is halved each time it runs out, and the
      generators there are condensed again, from their own images, into half the bytes.
    - ``shared``: one generator for all classes, condensed again at each experience from
      the new images and its own images of the old classes.

    Args:
        budget: Bytes.
        policy: ``experience`` or ``shared``.
        replay: ``fresh`` draws a new code for every image; ``fixed`` uses the codebook.
        config: Settings of the condensation; sizes in ``format`` are replaced by those
            that fit the budget. None is the preset ``replay``.
        seed: Of every draw.
        device: auto, cpu, cuda or cuda:N; where images are condensed and made.

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
        replay: Replay = "fresh",
        config: CondenseConfig | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        if type(budget) is not int or budget < 1:
            raise ConfigError(
                f"the memory's budget is {budget!r}: give a whole number of bytes"
            )
        for name, value, choices in (
            ("policy", policy, ("experience", "shared")),
            ("replay", replay, ("fresh", "fixed")),
        ):
            if value not in choices:
                raise ConfigError(
                    f"{name} is {value!r}: choose from {', '.join(choices)}"
                )
        self.budget = budget
        self.policy: Policy = policy
        self.replay: Replay = replay
        self.config = CondenseConfig.preset("replay") if config is None else config
        self.seed = seed
        self.device = device
        self.slots: list[Slot] = []
        self.observed = 0
        self._share = 0  # bytes of one generator under the policy `experience`
        self._decoded: list[CondensedDataset] = []  # working copies, never stored

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return sum(slot.nbytes for slot in self.slots)

    @property
    def classes(self) -> tuple[Key, ...]:
        """(label, task) of every class seen so far, in the order they came."""
        return tuple(dict.fromkeys(key for slot in self.slots for key in slot.keys))

    @property
    def missed_energy(self) -> float:
        """Mean square of what its images miss of real ones, in model-input units.

        Over all generators alike; 0 for an empty memory.
        """
        pairs = zip(self.slots, self._generators(), strict=True)
        energies = [slot.missed_energy(generator) for slot, generator in pairs]
        return sum(energies) / max(1, len(energies))

    def require(
        self,
        image_shape: tuple[int, int, int],
        keys: tuple[Key, ...],
        *,
        expected: int | None = None,
    ) -> None:
        """Check that the next experience will fit, before anything is trained.

        Args:
            image_shape: (C, H, W) of its images.
            keys: (label, task) of its classes.
            expected: As for `observe`.

        Raises:
            BudgetError: The budget is too small; says the minimum.
        """
        if self.policy == "shared":
            keys = tuple(dict.fromkeys([*self.classes, *keys]))
        share = self._share_for(len(self.slots) + 1, expected)
        self._fitted(image_shape, keys, share)
        if self.policy == "experience":
            for slot in self.slots:
                if slot.nbytes > share:  # it will be condensed again
                    self._fitted(image_shape, slot.keys, share)

    def to(self, device: str | torch.device) -> None:
        """Condense and make images there from now on."""
        if str(device) != str(self.device):
            self.device, self._decoded = device, []

    def observe(
        self,
        images: Tensor,
        labels: Tensor,
        tasks: Tensor,
        *,
        expected: int | None = None,
    ) -> str:
        """Condense an experience into the memory.

        Args:
            images: (N, C, H, W) floats as the model sees them, in any range.
            labels: int64 (N,).
            tasks: int64 (N,).
            expected: Number of experiences the whole stream has, if known.

        Returns:
            One line: what was condensed into what.

        Raises:
            DataError: The images cannot be condensed; says why.
            BudgetError: The budget is too small; says the minimum.
        """
        started = time.monotonic()
        data, keys, values = as_image_data(images, labels, tasks)
        kept: list[Slot] = []
        share = self._share_for(len(self.slots) + 1, expected)
        if self.policy == "shared":
            data, keys, values = self._with_old_classes(data, keys, values)
        else:
            kept = [self._within(index, share) for index in range(len(self.slots))]
        new = self._condense(data, keys, values, share)
        self.slots, self._decoded = [*kept, new], []
        self._share = share
        self.observed += 1
        codes = self._generators()[-1].images_per_class
        return (
            f"condensed {len(keys)} classes into {codes} codes, "
            f"{new.nbytes / 1000:.0f} KB, {time.monotonic() - started:.0f} s "
            f"(memory: {self.nbytes / 1000:.0f} of {self.budget / 1000:.0f} KB)"
        )

    @torch.no_grad()
    def sample(
        self, count: int, generator: torch.Generator, *, dispersed: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw images, balanced over the classes seen so far.

        Args:
            count: Number of images, at least 1.
            generator: On the CPU; the only source of randomness.
            dispersed: Whether noise makes up for what the generators miss, for a
                network that sees generated images alone.

        Returns:
            Images (count, C, H, W) in model-input space, labels and tasks, on the
            memory's device.

        Raises:
            DataError: Nothing was observed yet.
        """
        if not self.slots:
            raise DataError("the memory is empty: observe an experience first")
        holders: dict[Key, list[tuple[int, int]]] = {}
        for index, slot in enumerate(self.slots):
            for label, key in enumerate(slot.keys):
                holders.setdefault(key, []).append((index, label))
        keys = list(holders)
        # A count that the classes do not divide favours other classes each time.
        first = int(torch.randint(len(keys), (1,), generator=generator))
        wanted: list[list[int]] = [[] for _ in self.slots]
        for i in range(count):
            of_class = holders[keys[(first + i) % len(keys)]]
            index, label = of_class[i // len(keys) % len(of_class)]
            wanted[index].append(label)
        parts = [
            self._draw(index, local, generator, dispersed)
            for index, local in enumerate(wanted)
            if local
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
            "share": self._share,
            "slots": [slot.state_dict() for slot in self.slots],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ArtefactError: The state is of another version or damaged.
        """
        if state.get("version") != STATE_VERSION:
            raise ArtefactError(
                f"memory state of version {state.get('version')!r:.40} is not "
                f"supported (this is {STATE_VERSION}): update gencondense"
            )
        missing = {"budget", "policy", "observed", "share", "slots"} - state.keys()
        if missing:
            raise ArtefactError(
                f"the memory state has no {sorted(missing)[0]!r}: load another state"
            )
        slots = [Slot.from_state(stored) for stored in state["slots"]]
        self._decoded = [slot.unpack(self.device) for slot in slots]
        self.slots = slots
        self.budget, self.policy = state["budget"], state["policy"]
        self.observed, self._share = state["observed"], state["share"]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the stored bytes only, not the working copies."""
        return {**self.__dict__, "_decoded": []}

    def _share_for(self, slots: int, expected: int | None) -> int:
        """Bytes of one generator when there are to be ``slots`` of them."""
        if self.policy == "shared":
            return self.budget
        share = self._share or self.budget
        if expected is not None and expected >= slots:
            return min(share, self.budget // expected)
        while share * slots > self.budget:
            share //= 2
        return share

    def _within(self, index: int, share: int) -> Slot:
        """A stored generator, condensed again from its own images if too large."""
        slot = self.slots[index]
        if slot.nbytes <= share:
            return slot
        data = self._own_images(index, IMAGES_AGAIN, slot.values)
        return self._condense(data, slot.keys, slot.values, share)

    def _with_old_classes(
        self, data: ImageData, keys: tuple[Key, ...], values: ValueRange
    ) -> tuple[ImageData, tuple[Key, ...], ValueRange]:
        """New images joined by as many of the memory's own of each old class."""
        if not self.slots:
            return data, keys, values
        (slot,) = self.slots
        wider = values.union(slot.values)
        old = self._own_images(0, -(-len(data) // len(keys)), wider)
        new = wider.to_pixels(values.from_pixels(to_unit(data.images)))
        joined = tuple(dict.fromkeys([*slot.keys, *keys]))
        places = torch.tensor([joined.index(key) for key in keys])
        merged = ImageData(
            images=torch.cat([old.images.to(new.device), new]),
            labels=torch.cat([old.labels.to(new.device), places[data.labels]]),
            classes=class_names(joined),
            name=data.name,
        )
        return merged, joined, wider

    def _own_images(self, index: int, per_class: int, values: ValueRange) -> ImageData:
        """Fresh images of one generator, as training data."""
        slot, generator = self.slots[index], self._generators()[index]
        draw = make_generator(self.seed, "own-images", self.observed, index)
        images, labels = [], []
        for wanted in torch.arange(len(slot.keys)).repeat(per_class).split(SAMPLES):
            pixels, drawn = generator.sample(
                len(wanted), classes=wanted.tolist(), fresh=True, generator=draw
            )
            images.append(values.to_pixels(slot.values.from_pixels(pixels)))
            labels.append(drawn)  # in the order of the images, which is a random one
        return ImageData(
            images=torch.cat(images),
            labels=torch.cat(labels),
            classes=class_names(slot.keys),
        )

    def _condense(
        self, data: ImageData, keys: tuple[Key, ...], values: ValueRange, share: int
    ) -> Slot:
        config = self._fitted(data.image_shape, keys, share)
        condensed = condense(data, config, device=self.device, progress=False)
        slot = Slot.pack(condensed, keys, values)
        assert slot.nbytes <= share, (slot.nbytes, share)
        return slot

    def _fitted(
        self, image_shape: tuple[int, int, int], keys: tuple[Key, ...], share: int
    ) -> CondenseConfig:
        """The configuration with the sizes that fit a share of the budget."""
        seed = derive_seed(self.seed, "memory", self.observed)
        beside = side_bytes(len(keys), image_shape[0])
        names = class_names(keys)
        try:
            return fit(
                replace(self.config, seed=seed),
                image_shape=image_shape,
                num_classes=len(keys),
                budget=share,
                size_of=lambda spec, precision: (
                    packed_size(spec, precision, names) + beside
                ),
            )
        except BudgetError as error:
            raise BudgetError(
                f"a memory of {self.budget} bytes leaves {share} for a generator, and "
                f"the smallest of {len(keys)} classes of "
                f"{'x'.join(map(str, image_shape))} images has {error.minimum}: give "
                f"the memory at least {error.minimum * self.budget // share + 1} bytes"
                + ", or share one generator (policy='shared')"
                * (self.policy == "experience"),
                minimum=error.minimum,
            ) from error

    def _generators(self) -> list[CondensedDataset]:
        """Working copies of the stored generators."""
        if not self._decoded:
            self._decoded = [slot.unpack(self.device) for slot in self.slots]
        return self._decoded

    def _draw(
        self,
        index: int,
        local_labels: list[int],
        generator: torch.Generator,
        dispersed: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One generator's images of given labels, with global labels and tasks."""
        slot = self.slots[index]
        pixels, local = self._generators()[index].sample(
            len(local_labels),
            classes=local_labels,
            fresh=self.replay == "fresh",
            dispersed=dispersed,
            generator=generator,
        )
        labels, tasks = torch.tensor(slot.keys, device=local.device)[local].unbind(1)
        return slot.values.from_pixels(pixels), labels, tasks
