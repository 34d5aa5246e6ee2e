"""Generative replay as an Avalanche plugin.

`GenerativeReplayPlugin` is an alias of `CondensedReplayPlugin`. It is not Avalanche's
own class of that name, which replays images of a VAE labelled by a copy of the model,
needs a second plugin that trains the VAE, and keeps models and strategy in memory.
"""

import logging
import math
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.logging import TextLogger
from torch import Tensor

from avalanche_plugin.arithmetic import single_precision
from avalanche_plugin.checks import require_labels, require_positive
from avalanche_plugin.detail import lend_detail, matching_sigma
from avalanche_plugin.experiences import (
    Boundaries,
    class_keys,
    fingerprint,
    image_shape,
    isolated_randomness,
    read_experience,
    warn_of_other_replay,
)
from avalanche_plugin.memory import GeneratorMemory, Policy
from avalanche_plugin.pixels import Key
from avalanche_plugin.protocol import ReplayMemory
from avalanche_plugin.stream import expected_classes, expected_experiences
from condense_core import CondenseConfig
from condense_core.errors import ArtefactError
from condense_core.seeding import make_generator

_LOG = logging.getLogger("avalanche_plugin")


class CondensedReplayPlugin(
    SupervisedPlugin,
    supports_distributed=False,  # type: ignore[call-arg]
):
    """Replay from condensed experiences: a drop-in replacement for ``ReplayPlugin``.

    After each experience the plugin condenses its images, under the evaluation
    transforms, into a generator; that of an experience that is trained on again is
    replaced. From the second experience on it adds generated images
    of the old classes to every minibatch. It never changes the model, its mode, the
    optimiser or the global random state.

    ::

        - plugins=[ReplayPlugin(mem_size=200)]
        + plugins=[CondensedReplayPlugin(mem_size=200)]

    :param mem_size: memory in exemplars, as ``ReplayPlugin`` counts them: the budget is
        the bytes of that many uint8 images, mem_size x C x H x W. What is stored stays
        within it after every experience.
    :param batch_size_mem: replayed images in each minibatch. None (default) is
        class-balanced: as many of each old class as the minibatch has, on average, of
        each class of the experience, so that it grows with the number of classes seen.
        Stored classes that the experience has too are left out, unless it has them all.
    :param mem_bytes: the budget in bytes; overrides ``mem_size``.
    :param preset: settings of the condensation: the name of a preset or a
        `CondenseConfig`. The sizes of the generator are chosen to fit the budget.
    :param policy: ``experience``, one generator per experience, or ``shared``, one
        generator that is condensed again at every experience.
    :param detail: whether generated images borrow the fine detail that their generators
        miss from the new images of the same minibatch, see `avalanche_plugin.detail`.
        None (default) turns it on for three-channel images: it helps on photographs and
        hurts on drawings with a blank background (docs/continual.md).
    :param expected_experiences: length of the stream, to divide the budget equally from
        the start. None reads it from the benchmark, and the number of classes of each
        experience, which then decides its part. A stream of unknown or greater length
        works too: see `GeneratorMemory`.
    :param memory: another `ReplayMemory` to use; ``mem_size``, ``mem_bytes``,
        ``preset``, ``policy`` and ``device`` are then ignored.
    :param device: where images are condensed and generated; None is the strategy's.
    :param seed: seed of everything random.

    Raises ``ConfigError`` for a size that is not a positive whole number, or an unknown
    preset or policy. Before an experience is trained on, raises ``BudgetError`` if the
    smallest generators of all experiences so far do not fit the budget, and
    ``DataError`` if samples are not labelled images with sides of 8 to 128 px.
    """

    def __init__(
        self,
        mem_size: int = 200,
        *,
        batch_size_mem: int | None = None,
        mem_bytes: int | None = None,
        preset: str | CondenseConfig = "replay",
        policy: Policy = "experience",
        detail: bool | None = None,
        expected_experiences: int | None = None,
        memory: ReplayMemory | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()

        def optional(name: str, given: int | None) -> int | None:
            return None if given is None else require_positive(name, given)

        self.mem_size = require_positive("mem_size", mem_size)
        self.batch_size_mem = optional("batch_size_mem", batch_size_mem)
        self.mem_bytes = optional("mem_bytes", mem_bytes)
        self.detail = detail
        self.expected_experiences = optional(
            "expected_experiences", expected_experiences
        )
        self.device = device
        self.seed = seed
        self._sets_budget = memory is None
        if memory is None:
            # The budget is set with the first experience, which tells the bytes of an
            # image.
            memory = GeneratorMemory(
                1,
                policy=policy,
                config=preset,
                seed=seed,
                device="cpu",
            )
        self.memory = memory
        self._checked = False  # whether the current experience is known to fit
        self._iterations = 0
        self._sigma: float | None = None  # of the blur; None until a minibatch is seen
        self._present: tuple[Key, ...] = ()  # classes of the current experience
        self._source: str | None = None  # of the same
        self._boundaries = Boundaries()

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return self.memory.nbytes

    @property
    def classes(self) -> tuple[tuple[int, int], ...]:
        """(label, task) of every class seen so far."""
        return self.memory.classes

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Warn if another plugin replays too."""
        if not self.memory.classes:
            warn_of_other_replay(strategy.plugins, self)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Set the budget at the first experience, and refuse one that does not fit.

        Checked here, before the experience is trained on.
        """
        first = getattr(strategy.experience, "is_first_subexp", True)
        if self._checked and not first:
            return  # what follows is done with an online experience's first slice
        self._checked, self._sigma = False, None
        memory, experience = self.memory, self._boundaries.origin(strategy.experience)
        if isinstance(memory, GeneratorMemory):
            with isolated_randomness():
                shape = image_shape(experience.dataset)
                self._present = class_keys(experience.dataset)
                self._source = fingerprint(experience.dataset, self._present)
            if self._sets_budget:
                memory.to(self.device or strategy.device)
                if not memory.classes:
                    memory.budget = self.mem_bytes or self.mem_size * math.prod(shape)
            memory.require(shape, self._present, **self._about(experience))
        else:
            with isolated_randomness():
                self._present = class_keys(experience.dataset)
        self._checked = True

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Add generated images of the classes seen so far to the minibatch.

        :raises DataError: its labels are not one whole number an image. They are
            checked in the first experience too, when there is nothing to add yet.
        """
        minibatch = strategy.mbatch
        if isinstance(self.memory, GeneratorMemory):
            require_labels(minibatch[1])
        old = self._classes_to_replay()
        if not old:
            return
        count = self.batch_size_mem or self._balanced_count(minibatch, old)
        rng = make_generator(self.seed, "replay", self._iterations)
        self._iterations += 1
        if not count:
            return
        images, labels, tasks = self._sample(count, rng, old)
        if self.detail or (self.detail is None and images.shape[1] == 3):
            images = self._with_detail(images, minibatch[0], rng)
        # Samples are (x, y) or (x, y, task): the last element is the task only if there
        # are three. Every element keeps its type.
        for position, values in ((0, images), (1, labels), (-1, tasks)):
            if position == -1 and len(minibatch) < 3:
                continue
            own = minibatch[position]
            minibatch[position] = torch.cat([own, values.to(own.device, own.dtype)])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Condense the experience, once per task boundary.

        It is read with the ``num_workers`` that ``strategy.train`` was given.
        """
        experience = self._boundaries.completed(strategy.experience)
        if experience is None:
            return
        with isolated_randomness(), torch.enable_grad():
            images, labels, tasks = read_experience(
                experience.dataset, num_workers=kwargs.get("num_workers", 0)
            )
            line = self.memory.observe(images, labels, tasks, **self._about(experience))
        _LOG.info(line)
        for logger in strategy.evaluator.loggers:
            if isinstance(logger, TextLogger):
                print(line, file=logger.file, flush=True)

    def state_dict(self) -> dict[str, Any]:
        """What is stored and how far training has come: tensors and plain values."""
        return {
            "iterations": self._iterations,
            "slices": self._boundaries.slices,
            "memory": self.memory.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`, in this process or another.

        Raises ``ArtefactError`` if the state is damaged or of another version.
        """
        if missing := {"memory", "iterations", "slices"} - state.keys():
            raise ArtefactError(
                f"the plugin's state has no {sorted(missing)[0]!r}: load another state"
            )
        self.memory.load_state_dict(state["memory"])
        self._checked = False
        self._iterations = state["iterations"]
        self._boundaries.slices = state["slices"]

    @torch.no_grad()
    @single_precision()
    def _with_detail(
        self, images: Tensor, real: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Generated images with fine detail of the minibatch's real ones.

        The blur is chosen once per experience, on its first minibatch.
        """
        if self._sigma is None:
            self._sigma = matching_sigma(real, self.memory.missed_energy)
        images = images.to(real.device, real.dtype)
        return lend_detail(images, real, self._sigma, rng)

    def _classes_to_replay(self) -> tuple[Key, ...]:
        """(label, task) of the stored classes that the experience does not have.

        If it has them all, as in domain-incremental streams, they are all replayed: the
        images of other experiences are what is to be remembered then.
        """
        if not isinstance(self.memory, GeneratorMemory):
            return self.memory.classes
        stored, present = self.memory.classes_beside(self._source), set(self._present)
        return tuple(key for key in stored if key not in present) or stored

    def _sample(
        self, count: int, rng: torch.Generator, old: tuple[Key, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and tasks of some stored classes; another memory's are all."""
        if isinstance(self.memory, GeneratorMemory):
            return self.memory.sample(count, rng, only=set(old))
        return self.memory.sample(count, rng)

    def _balanced_count(self, minibatch: list[Tensor], old: tuple[Key, ...]) -> int:
        """As many images of each old class as a minibatch has of each present one.

        On average: a small minibatch has not all classes of the experience, and a part
        of an image that is due is made up for in a later one.
        """
        due = len(minibatch[1]) * len(old)
        present = max(1, len(self._present))
        step = self._iterations
        return (step + 1) * due // present - step * due // present

    def _about(self, experience: Any) -> dict[str, Any]:
        """What the memory is told of a (whole) experience besides its images."""
        told = self.expected_experiences
        about: dict[str, Any] = {"expected": told or expected_experiences(experience)}
        if isinstance(self.memory, GeneratorMemory):
            about["source"] = self._source
            if told is None:
                about["expected_classes"] = expected_classes(experience)
        return about


GenerativeReplayPlugin = CondensedReplayPlugin
