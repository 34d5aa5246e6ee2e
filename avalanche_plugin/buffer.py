"""A storage policy for users who keep ``ReplayPlugin``, ``ER_ACE`` or ``GDumb``.

Shape legend: N images, C H W image.
"""

import math
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor
from torch.utils.data import Dataset

from avalanche_plugin.checks import require_positive
from avalanche_plugin.experiences import (
    Boundaries,
    expected_experiences,
    isolated_randomness,
    read_experience,
)
from avalanche_plugin.memory import GeneratorMemory, Policy
from condense_core import CondenseConfig
from condense_core.errors import ConfigError
from condense_core.seeding import make_generator


class CondensedBuffer(ExemplarsBuffer):
    """Exemplars generated from condensed experiences.

    ::

        ReplayPlugin(mem_size=200, storage_policy=CondensedBuffer(200))

    The bytes of ``max_size`` images hold generators, and ``buffer`` shows ``samples``
    images drawn from them, anew after every experience. The images are working memory:
    a pickled buffer holds the generators alone.

    :param max_size: memory in exemplars; its bytes are the budget.
    :param samples: images in ``buffer``; None is ten times ``max_size``.
    :param preset: settings of the condensation, a preset's name or a configuration.
    :param policy: see `GeneratorMemory`.
    :param seed: of every draw.
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
        require_positive("max_size", max_size)
        if samples is not None:
            require_positive("samples", samples)
        super().__init__(max_size)
        self.samples = 10 * max_size if samples is None else samples
        self.seed = seed
        # The first experience tells the bytes of an image, and with it the budget.
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
        """Condense an experience, once per task boundary."""
        experience = self._boundaries.completed(exp)
        if experience is None:
            return
        with isolated_randomness(), torch.enable_grad():
            images, labels, task_ids = read_experience(experience.dataset)
            self.memory.to(getattr(agent_state, "device", "auto"))
            if not self.memory.classes:
                self.memory.budget = self.max_size * math.prod(images.shape[1:])
            self.memory.observe(
                images, labels, task_ids, expected=expected_experiences(experience)
            )
            # The samples of memory and stream are collated together: same number of
            # elements, same types.
            _, label, *tasks = experience.dataset.eval()[0]
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
        """Not supported: a generator's bytes are shared out as it is condensed.

        :raises ConfigError: always.
        """
        raise ConfigError(
            f"a CondensedBuffer of {self.max_size} exemplars cannot be resized to "
            f"{new_size}: make it of the final size"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Generators only: the images can be drawn again."""
        return {**self.__dict__, "_buffer": AvalancheDataset([])}

    def _draw(self) -> AvalancheDataset:
        draw = make_generator(self.seed, "buffer", self.memory.observed)
        images, labels, tasks = (
            v.cpu() for v in self.memory.sample(self.samples, draw, dispersed=True)
        )
        attributes = [DataAttribute(labels.tolist(), "targets")]
        if self._with_tasks:
            attributes.append(
                DataAttribute(
                    tasks.tolist(), "targets_task_labels", use_in_getitem=True
                )
            )
        return AvalancheDataset(
            [
                _Generated(
                    images, labels if self._labels_are_tensors else labels.tolist()
                )
            ],
            data_attributes=attributes,
        )


class _Generated(Dataset[tuple[Tensor, int | Tensor]]):
    """Images in model-input space with labels of the type the stream has."""

    def __init__(self, images_NCHW: Tensor, targets: list[int] | Tensor) -> None:
        self.images_NCHW = images_NCHW
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        return self.images_NCHW[index], self.targets[index]
