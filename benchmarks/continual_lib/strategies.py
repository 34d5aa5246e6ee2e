"""From the name of a row to a strategy of Avalanche.

Avalanche is imported where it is used, so that rows can be listed without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from continual_lib.controls.base import ExperienceMemory
from continual_lib.controls.jpeg import JpegExemplarMemory
from continual_lib.controls.pca_gaussian import PcaGaussianMemory
from continual_lib.controls.pixels import PixelExemplarMemory
from continual_lib.controls.vae_decoder import VaeDecoderMemory
from continual_lib.results import Cell, Config
from continual_lib.rows import REPLAY_N, bare, exemplars_of, key_of
from continual_lib.streams import CLASSES, Data

GDUMB_EPOCHS = 30
LOGIT_BYTES = 4 * CLASSES  # of an exemplar of DER++, in fp32


@dataclass
class Learner:
    """A strategy and how to measure its memory.

    Attributes:
        strategy: Of Avalanche.
        stored: Bytes of the memory now.
        plugin: Ours, if it takes part.
    """

    strategy: Any
    stored: Callable[[], int]
    plugin: Any = None


@dataclass(frozen=True)
class Job:
    """What the strategy of a row is built from.

    Attributes:
        cell: The run.
        config: Its settings.
        data: The data set.
        common: Arguments that all strategies take.
    """

    cell: Cell
    config: Config
    data: Data
    common: dict[str, Any]

    @property
    def balanced(self) -> bool:
        return self.cell.row != bare(self.cell.row)

    @property
    def replayed(self) -> int:
        """Images replayed with each minibatch."""
        factor = self.config.experiences - 1 if self.balanced else 1
        return factor * self.config.batch_size

    @property
    def exemplars(self) -> int:
        """Images the memory holds.

        Raises:
            ValueError: Fewer than one an experience.
        """
        count = exemplars_of(self.cell.row)
        if count is None:
            count = self.cell.mem_bytes // self.data.image_bytes
        if count < self.config.experiences:
            raise ValueError(
                f"{bare(self.cell.row)}: {self.cell.mem_bytes} bytes hold only "
                f"{count} images"
            )
        return count

    @property
    def buffer(self) -> dict[str, int]:
        """Sizes for DER and ER_ACE.

        They replay nothing at all while the buffer is smaller than the batch.
        """
        count = self.exemplars
        return {"mem_size": count, "batch_size_mem": min(self.replayed, count)}

    def exemplar_learner(self, strategy: Any, policy: Any, extra: int = 0) -> Learner:
        """A learner whose exemplars take ``extra`` bytes each besides their pixels."""
        each = self.data.image_bytes + extra
        return Learner(strategy, lambda: len(policy.buffer) * each)


def build_learner(
    cell: Cell, config: Config, data: Data, model: nn.Module, device: str
) -> Learner:
    """The strategy of a row.

    Raises:
        ValueError: An unknown row, or one that this data set does not allow.
    """
    from avalanche.training.plugins import EvaluationPlugin

    row = key_of(cell.row)
    if row not in BUILDERS:
        raise ValueError(f"unknown row {cell.row!r}: see --list")
    common = {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=config.lr),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": config.batch_size,
        "train_epochs": config.epochs,
        "eval_mb_size": 512,
        "device": device,
        "evaluator": EvaluationPlugin(loggers=[]),
    }
    return BUILDERS[row](Job(cell, config, data, common))


def _naive(job: Job) -> Learner:
    from avalanche.training.supervised import Naive

    return Learner(Naive(**job.common), lambda: 0)


def _joint(job: Job) -> Learner:
    from avalanche.training.supervised import JointTraining

    return Learner(JointTraining(**job.common), lambda: 0)


def _replay(job: Job, policy: Any = None) -> Learner:
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.supervised import Naive

    plugin = ReplayPlugin(
        job.exemplars, batch_size_mem=job.replayed, storage_policy=policy
    )
    strategy = Naive(**job.common, plugins=[plugin])
    return job.exemplar_learner(strategy, plugin.storage_policy)


def _class_balanced(job: Job) -> Learner:
    from avalanche.training.storage_policy import ClassBalancedBuffer

    return _replay(job, ClassBalancedBuffer(max_size=job.exemplars))


def _gdumb(job: Job) -> Learner:
    from avalanche.training.supervised import GDumb

    arguments = job.common | {"train_epochs": GDUMB_EPOCHS}
    strategy = GDumb(**arguments, mem_size=job.exemplars)
    plugin = next(p for p in strategy.plugins if hasattr(p, "storage_policy"))
    return job.exemplar_learner(strategy, plugin.storage_policy)


def _er_ace(job: Job) -> Learner:
    from avalanche.training.supervised import ER_ACE

    strategy = ER_ACE(**job.common, **job.buffer)
    return job.exemplar_learner(strategy, strategy.storage_policy)


def _der(job: Job) -> Learner:
    from avalanche.training.supervised import DER

    strategy = DER(**job.common, **job.buffer, alpha=0.5, beta=0.5)
    return job.exemplar_learner(strategy, strategy.storage_policy, LOGIT_BYTES)


def _generative_replay(job: Job) -> Learner:
    from avalanche.training.supervised import GenerativeReplay

    shape = job.data.image_shape
    if shape != (1, 28, 28):
        raise ValueError(f"{job.cell.row} takes 1x28x28 images, not {shape}")
    size = job.replayed if job.balanced else None
    strategy = GenerativeReplay(**job.common, replay_size=size)
    strategy.generator_strategy.evaluator.loggers = []  # it has progress bars
    state = strategy.generator_strategy.model.state_dict()
    return Learner(strategy, lambda: sum(tensor.nbytes for tensor in state.values()))


def _ours(job: Job, **options: Any) -> Learner:
    """Our plugin; ``options`` are its own."""
    from avalanche.training.supervised import Naive

    from avalanche_plugin import GenerativeReplayPlugin

    plugin = GenerativeReplayPlugin(
        mem_bytes=job.cell.mem_bytes, seed=job.cell.seed, **options
    )
    strategy = Naive(**job.common, plugins=[plugin])
    return Learner(strategy, lambda: plugin.nbytes, plugin)


def _control(
    job: Job, kind: type[ExperienceMemory], *, detail: bool = False, **options: Any
) -> Learner:
    """Our plugin with another memory; ``options`` are the memory's."""
    memory = kind(mem_bytes=job.cell.mem_bytes, seed=job.cell.seed, **options)
    memory.measures_missed = detail
    return _ours(job, memory=memory, detail=detail)


def _vae_decoder(job: Job, detail: bool = False) -> Learner:
    steps, latent_dim = job.config.vae_steps, job.config.vae_latent
    return _control(
        job, VaeDecoderMemory, detail=detail, steps=steps, latent_dim=latent_dim
    )


BUILDERS: dict[str, Callable[[Job], Learner]] = {
    "naive": _naive,
    "joint": _joint,
    REPLAY_N: _replay,
    "replay-bytes": _replay,
    "class-balanced": _class_balanced,
    "gdumb": _gdumb,
    "er-ace": _er_ace,
    "der++": _der,
    "generative-replay": _generative_replay,
    "pca-gaussian": partial(_control, kind=PcaGaussianMemory),
    "pca-mixture-4": partial(_control, kind=PcaGaussianMemory, components=4),
    "pca-mixture-8": partial(_control, kind=PcaGaussianMemory, components=8),
    "vae-decoder": _vae_decoder,
    "pca-gaussian-detail": partial(_control, kind=PcaGaussianMemory, detail=True),
    "vae-decoder-detail": partial(_vae_decoder, detail=True),
    "pixels": partial(_control, kind=PixelExemplarMemory, herded=False),
    "jpeg": partial(_control, kind=JpegExemplarMemory),
    "ours-experience": partial(_ours, policy="experience"),
    "ours-smooth": partial(_ours, policy="experience", detail=False),
    "ours-detail": partial(_ours, policy="experience", detail=True),
    "ours-shared": partial(_ours, policy="shared"),
    "ours-refined": partial(_ours, preset="replay-refined"),
}
