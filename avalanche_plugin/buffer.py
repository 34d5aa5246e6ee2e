"""A storage policy for ``ReplayPlugin``, and for what else draws from one.

Shape legend: N images, C H W image.
"""

import math
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from avalanche.benchmarks.utils.classification_dataset import (
    TaskAwareClassificationDataset,
)
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor
from torch.utils.data import Dataset

from avalanche_plugin.checks import require_positive
from avalanche_plugin.experiences import (
    Boundaries,
    class_keys,
    fingerprint,
    isolated_randomness,
    read_experience,
)
from avalanche_plugin.memory import GeneratorMemory, Policy
from avalanche_plugin.stream import expected_classes, expected_experiences
from condense_core import CondenseConfig
from condense_core.errors import ConfigError
from condense_core.seeding import make_generator


class CondensedBuffer(ExemplarsBuffer):
    """Generated exemplars: a storage policy that keeps condensed experiences.

    ::

        ReplayPlugin(mem_size=200, storage_policy=CondensedBuffer(200))

    A strategy that makes its own, as ``ER_ACE`` does, takes this one as its attribute
    ``storage_policy``. It updates it before it trains, and then replays generated
    images of the present experience too.

    Generators take at most the bytes of ``max_size`` images, and ``buffer`` holds
    ``samples`` images drawn from them, drawn again after every experience. These images
    are working memory: a pickled buffer holds only the generators.

    :param max_size: memory in exemplars; their bytes are the budget.
    :param samples: images in ``buffer``; None (default) is ten times ``max_size``.
    :param preset: settings of the condensation: the name of a preset or a
        `CondenseConfig`.
    :param policy: see `GeneratorMemory`.
    :param seed: seed of everything random.

    Raises ``ConfigError`` for a size that is not a positive whole number, or an unknown
    preset or policy.
    """

    def __init__(
        self,
        max_size: int = 200,
        *,
        samples: int | None = None,
        preset: str | CondenseConfig = "replay",
        policy: Policy = "experience",
        seed: int = 0,
    ) -> None:
        max_size = require_positive("max_size", max_size)
        super().__init__(max_size)
        self.samples = 10 * max_size
        if samples is not None:
            self.samples = require_positive("samples", samples)
        self.seed = seed
        # The first experience tells the bytes of an image, and so the budget.
        self.memory = GeneratorMemory(
            1, policy=policy, config=preset, seed=seed, device="cpu"
        )
        self._boundaries = Boundaries()
        self._with_tasks = False
        self._labels_are_tensors = False

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return self.memory.nbytes

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Condense an experience, once per task boundary.

        ``ReplayPlugin`` calls it after it has trained on the experience: only then are
        images or budgets refused that cannot be used.

        :raises BudgetError: the budget is too small.
        :raises DataError: samples are not labelled images of 8 to 128 px.
        """
        experience = self._boundaries.completed(exp)
        if experience is None:
            return
        with isolated_randomness(), torch.enable_grad():
            dataset = experience.dataset
            images, labels, task_ids = read_experience(dataset)
            self.memory.to(getattr(agent_state, "device", "auto"))
            if not self.memory.classes:
                self.memory.budget = self.max_size * math.prod(images.shape[1:])
            self.memory.observe(
                images,
                labels,
                task_ids,
                expected=expected_experiences(experience),
                expected_classes=expected_classes(experience),
                source=fingerprint(dataset, class_keys(dataset)),
            )
            # Samples of the buffer and of the stream are collated together: they need
            # the same number of elements and the same types.
            _, label, *tasks = dataset.eval()[0]
        self._with_tasks = bool(tasks)
        self._labels_are_tensors = isinstance(label, Tensor)
        self._buffer = self._draw()

    @property
    def buffer(self) -> AvalancheDataset:
        """Generated images; drawn again after unpickling."""
        if self.memory.classes and len(self._buffer) == 0:
            self._buffer = self._draw()
        return self._buffer

    @buffer.setter
    def buffer(self, new_buffer: AvalancheDataset) -> None:
        self._buffer = new_buffer

    def resize(self, strategy: Any, new_size: int) -> None:
        """Not supported: the size of a generator is fixed when it is condensed.

        :raises ConfigError: always.
        """
        raise ConfigError(
            f"a CondensedBuffer of {self.max_size} exemplars cannot be resized to "
            f"{new_size}: build it with the final size"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle only the generators: the images can be drawn again."""
        return {**self.__dict__, "_buffer": AvalancheDataset([])}

    def _draw(self) -> AvalancheDataset:
        rng = make_generator(self.seed, "buffer", self.memory.observed)
        images, labels, tasks = (
            v.cpu() for v in self.memory.sample(self.samples, rng, dispersed=True)
        )
        attributes = [DataAttribute(labels.tolist(), "targets")]
        kind: type[AvalancheDataset] = AvalancheDataset
        if self._with_tasks:
            # Avalanche's task-balanced loaders ask a data set for its tasks.
            kind = TaskAwareClassificationDataset
            attributes.append(
                DataAttribute(
                    tasks.tolist(), "targets_task_labels", use_in_getitem=True
                )
            )
        return kind(
            [
                _Generated(
                    images, labels if self._labels_are_tensors else labels.tolist()
                )
            ],
            data_attributes=attributes,
        )


class _Generated(Dataset[tuple[Tensor, int | Tensor]]):
    """Images in model-input space, with labels of the type that the stream has."""

    def __init__(self, images_NCHW: Tensor, targets: list[int] | Tensor) -> None:
        self.images_NCHW = images_NCHW
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        return self.images_NCHW[index], self.targets[index]
