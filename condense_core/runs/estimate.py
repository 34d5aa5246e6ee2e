"""How long a run will take, phase by phase.

Every phase is timed on the run's own sizes for a few steps, on a few images of each
class and networks that are thrown away, and multiplied.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from condense_core.augment import SiameseAugment
from condense_core.compute.distributed import Apart, Ranks, shared_norms
from condense_core.compute.mode import compute_scope, uses_graphs
from condense_core.config import CondenseConfig
from condense_core.data import ImageData, PixelStatistics
from condense_core.data.class_sampler import ClassSampler
from condense_core.engine import condense_loop
from condense_core.loop_state import LoopState
from condense_core.monitor import LOG_EVERY
from condense_core.networks import FeatureNetwork, build_network
from condense_core.objectives.trajectory import Expert, train_expert
from condense_core.pretrain import pretrain
from condense_core.probe import PROBE_WIDTH
from condense_core.probe import RECIPE as PROBE_RECIPE
from condense_core.runlog import RunLog
from condense_core.runs.preparation import embedding_dim
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import Synthesiser, SynthesiserSpec, build_synthesiser
from condense_core.teacher import AUGMENT, build_teacher, frozen, needs_teacher
from condense_core.training import (
    Recipe,
    accuracy,
    planned_steps,
    resolve_recipe,
    train_network,
)

TIMED_STEPS = 3
TIMED_IMAGES = 4096  # in all
LEAST_OF_A_CLASS = 16  # but at least this many of each class
BATCH = 256


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds a run takes, by phase.

    Attributes:
        fixed: Of every phase but the loop.
        outer: Of one outer iteration of Algorithm 1: M generator updates, one of phi.
        outers: Outer iterations of the run.
    """

    fixed: Mapping[str, float]
    outer: float
    outers: int

    @property
    def phases(self) -> dict[str, float]:
        """All phases by name."""
        return {**self.fixed, "condensing": self.outer * self.outers}

    @property
    def total(self) -> float:
        """Of the whole run."""
        return sum(self.phases.values())

    def __str__(self) -> str:
        """One line, for people; phases under a hundredth are left out."""
        parts = ", ".join(
            f"{name} {in_words(seconds)}"
            for name, seconds in self.phases.items()
            if seconds >= 0.01 * self.total
        )
        return f"about {in_words(self.total)} ({parts})"


def measure(
    train: ImageData,
    test: ImageData | None,
    config: CondenseConfig,
    *,
    device: torch.device,
    world: int = 1,
) -> Estimate:
    """Time a few steps of every phase; changes nothing, and has a seed of its own.

    Args:
        train: Training images, of which some of each class are read.
        test: Test images; None leaves out the evaluation.
        config: Sizes and lengths.
        device: Where to compute.
        world: Processes that share a step of the loop. What one of them computes is
            timed, without the exchange between them.
    """
    rng = make_generator(config.seed, "pace")
    most = max(LEAST_OF_A_CLASS, TIMED_IMAGES // train.num_classes)
    thin = train.thin(most, rng).to(device)
    statistics = thin.statistics()
    sampler = ClassSampler(thin, device)
    fixed: dict[str, float] = {}

    teacher = frozen(build_teacher(thin, config).to(device))
    if needs_teacher(config) and config.teacher.path is None:
        recipe = Recipe("pace", epochs=config.teacher.steps, augment=AUGMENT)
        step = _training_step(
            thin, statistics, recipe, width=config.teacher.width, images=BATCH
        )
        fixed["teacher"] = step * config.teacher.steps
    if config.format.embedding != "one_hot":
        counts = train.counts.clamp(max=config.teacher.mean_images or len(train))
        online = config.format.embedding == "online"
        one = _pass_seconds(
            thin,
            statistics,
            network=config.network.name if online else "convnet",
            width=config.network.width if online else config.teacher.width,
        )
        fixed["class embeddings"] = one * int(counts.sum())

    spec = SynthesiserSpec.from_config(
        config.format,
        image_shape=thin.image_shape,
        num_classes=thin.num_classes,
        embedding_dim=embedding_dim(config, thin),
    )
    with seeded_initialisation(config.seed, "pace"):
        synthesiser = build_synthesiser(spec, seed=config.seed).to(device)
    tools = _Tools(thin, statistics, sampler, teacher, config)
    pretraining = _pretraining_seconds(synthesiser, tools, len(train) / len(thin))
    if pretraining:
        fixed["pre-training"] = pretraining
    experts = None
    if config.loss.trajectory:
        fixed["experts"], experts = _experts(tools)
    outer = 0.0
    if config.loop.total:
        ranks = Apart(world - 1, world)  # no other has more to do
        outer = _outer_seconds(synthesiser, tools, experts, ranks)
    if test is not None:
        fixed |= _evaluation(train, test, thin, statistics, config)
    loop = config.loop
    return Estimate(fixed, outer, loop.restarts * loop.network_updates)


@dataclass(frozen=True, slots=True)
class _Tools:
    """What phases work with, on a few images."""

    thin: ImageData
    statistics: PixelStatistics
    sampler: ClassSampler
    teacher: FeatureNetwork
    config: CondenseConfig


def _pretraining_seconds(
    synthesiser: Synthesiser, tools: _Tools, images: float
) -> float:
    """Of all steps, and of what comes before and after with ``images`` times as many.

    Leaves the synthesiser slightly trained; 0 without pre-training.
    """
    config = tools.config.pretrain
    ticks = _Ticks(tools.sampler.device)
    pretrain(
        synthesiser,
        tools.sampler,
        tools.statistics,
        replace(config, steps=TIMED_STEPS),
        extractor=tools.teacher,
        seed=tools.config.seed,
        log=ticks,
    )
    ended = ticks.now()
    if not ticks.times:
        return 0.0
    before = ticks.times[0] - ticks.start - ticks.step
    after = ended - ticks.times[-1]
    return ticks.step * config.steps + max(0.0, before + after) * images


def _experts(tools: _Tools) -> tuple[float, list[Expert]]:
    """Seconds that all experts take, and one that is good enough to time students."""
    config = tools.config
    options = config.trajectory
    quick = replace(options, experts=1, snapshot_steps=1)
    ticks = _Ticks(tools.sampler.device)
    expert = train_expert(
        0,
        tools.sampler,
        quick,
        statistics=tools.statistics,
        augment=SiameseAugment.from_text(config.augment, flip=config.data.flip),
        seed=config.seed,
    )
    step = (ticks.now() - ticks.start) / quick.snapshots
    return step * options.experts * options.snapshots * options.snapshot_steps, [expert]


def _outer_seconds(
    synthesiser: Synthesiser,
    tools: _Tools,
    experts: list[Expert] | None,
    ranks: Ranks,
) -> float:
    """Of one outer iteration of Algorithm 1, probes included."""
    config, loop, device = tools.config, tools.config.loop, tools.sampler.device
    # The first update logs and warms up, the second may capture a graph.
    settling = 2 if uses_graphs(config.compute, device, ranks.world) else 1
    timed = replace(loop, restarts=1, network_updates=2, generator_updates=settling + 1)
    state = LoopState(
        replace(config, loop=timed),
        synthesiser,
        tools.statistics,
        device=device,
        experts=experts,
        ranks=ranks,
    )
    ticks = _Ticks(device)
    with compute_scope(config.compute, device), shared_norms(synthesiser, ranks):
        condense_loop(
            state,
            sampler=tools.sampler,
            teacher=tools.teacher if config.loss.soft_labels else None,
            log=ticks,
            save=lambda _: None,
            probe=lambda _: 0.0,
        )
        probing = _probe_seconds(tools.thin, tools.statistics, config)
    seconds = [later - earlier for earlier, later in pairwise(ticks.times)]
    plain = seconds[settling - 1]
    renewed = seconds[settling]  # after an update of phi, with a new association
    logged = seconds[-1]
    update = plain + max(0.0, logged - plain) / LOG_EVERY + probing
    return update * loop.generator_updates + max(0.0, renewed - plain)


def in_words(seconds: float) -> str:
    """A duration as people say it: ``8 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Ticks(RunLog):
    """A log that writes nothing and remembers when each step ended."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(None, total=0, description="pace", progress=False)
        self._device = device
        self.times: list[float] = []
        self.start = self.now()

    def now(self) -> float:
        """Seconds, once the device has done what was asked of it."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def advance(self, step: int, **shown: float | Tensor | str) -> None:
        """Note the time."""
        self.times.append(self.now())

    @property
    def step(self) -> float:
        """Seconds of one step, the first left out."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


def _training_step(
    thin: ImageData,
    statistics: PixelStatistics,
    recipe: Recipe,
    *,
    network: str = "convnet",
    width: int | None,
    images: int,
) -> float:
    """Seconds of one step of `train_network` on batches of so many images."""
    device = thin.images.device
    index = torch.arange(images, device=device) % len(thin)
    ticks = _Ticks(device)
    train_network(
        build_network(
            network,
            image_shape=thin.image_shape,
            num_classes=thin.num_classes,
            width=width,
            seed=0,
        ).to(device),
        thin.images[index],
        thin.labels[index],
        recipe=replace(recipe, epochs=TIMED_STEPS, batch_size=images),
        statistics=statistics,
        seed=0,
        on_step=lambda step, *_: ticks.advance(step),
    )
    return ticks.step


def _pass_seconds(
    thin: ImageData, statistics: PixelStatistics, *, network: str, width: int | None
) -> float:
    """Seconds of one image on its way through a network, without gradients."""
    device = thin.images.device
    net = build_network(
        network,
        image_shape=thin.image_shape,
        num_classes=thin.num_classes,
        width=width,
        seed=0,
    ).to(device)
    index = torch.arange(BATCH, device=device) % len(thin)
    ticks = _Ticks(device)
    for step in range(2):
        accuracy(net, thin.images[index], thin.labels[index], statistics)
        ticks.advance(step)
    return ticks.step / BATCH


def _probe_seconds(
    thin: ImageData, statistics: PixelStatistics, config: CondenseConfig
) -> float:
    """Of the probes, for each generator update."""
    if not config.evaluate.probe_every:
        return 0.0
    images = thin.num_classes * config.format.images_per_class
    step = _training_step(
        thin, statistics, PROBE_RECIPE, width=PROBE_WIDTH, images=min(images, BATCH)
    )
    return step * planned_steps(images, PROBE_RECIPE) / config.evaluate.probe_every


def _evaluation(
    train: ImageData,
    test: ImageData,
    thin: ImageData,
    statistics: PixelStatistics,
    config: CondenseConfig,
) -> dict[str, float]:
    """Of the condensed set, the references and the picture of features."""
    from condense_core.references import FULL
    from condense_core.runs.experiment import FEATURE_STEPS

    options, recipe = config.evaluate, resolve_recipe(config.evaluate.recipe)
    images = thin.num_classes * config.format.images_per_class

    def step(batch: int) -> float:
        return _training_step(
            thin,
            statistics,
            recipe,
            network=options.network,
            width=options.width,
            images=min(batch, recipe.batch_size),
        )

    testing = len(test) * _pass_seconds(
        thin, statistics, network=options.network, width=options.width
    )
    one = step(images) * planned_steps(images, recipe) + testing
    seconds = {"evaluation": options.repeats * one}
    for name in options.baselines:
        if name == FULL:
            steps = planned_steps(len(train), recipe, options.full_max_steps)
            seconds[name] = options.repeats * (step(len(train)) * steps + testing)
        else:
            seconds[name] = options.repeats * one
    if set(options.baselines) - {FULL, "random"}:  # a network chooses their images
        plain = Recipe("pace", epochs=1)
        choosing = _training_step(
            thin, statistics, plain, width=config.teacher.width, images=BATCH
        )
        trained = len(set(options.baselines) - {FULL, "random"})
        seconds["selection"] = trained * choosing * config.teacher.steps
    features = Recipe("pace", epochs=FEATURE_STEPS)
    seconds["report"] = FEATURE_STEPS * _training_step(
        thin, statistics, features, width=32, images=BATCH
    )
    return seconds
