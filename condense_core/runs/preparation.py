"""What a run makes before its loop: teacher, class embeddings, pre-trained generator.

Teacher, generator and experts are kept in the run directory: a resumed run does not
make them again. Class embeddings are computed anew, to the same bits.
"""

from torch import Tensor

from condense_core.augment import SiameseAugment
from condense_core.class_embedding import (
    class_mean_features,
    one_hot_embedding,
    standardise,
)
from condense_core.compute.distributed import Ranks
from condense_core.config import CondenseConfig
from condense_core.data import ImageData, PixelStatistics
from condense_core.data.class_sampler import ClassSampler
from condense_core.networks import FeatureNetwork, build_network
from condense_core.networks.convnet import DEFAULT_WIDTH
from condense_core.objectives.trajectory import Expert, train_expert
from condense_core.pretrain import pretrain
from condense_core.runlog import RunLog
from condense_core.runs.directory import RunDirectory
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import Synthesiser, SynthesiserSpec, build_synthesiser
from condense_core.teacher import (
    build_teacher,
    frozen,
    load_teacher,
    needs_teacher,
    train_teacher,
)


def build_phi(config: CondenseConfig, data: ImageData) -> FeatureNetwork:
    """A network as phi is, from a seed of its own: what is asked before the loop."""
    return build_network(
        config.network.name,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        width=config.network.width,
        depth=config.network.depth,
        low_pass=config.network.low_pass,
        seed=config.seed,
    )


def embedding_dim(config: CondenseConfig, data: ImageData) -> int:
    """E, the size of a class embedding, before there is one."""
    if config.format.embedding == "one_hot":
        return data.num_classes
    if config.format.embedding == "online":
        return build_phi(config, data).feature_dim
    return config.teacher.width or DEFAULT_WIDTH


def prepare_teacher(
    run: RunDirectory,
    data: ImageData,
    statistics: PixelStatistics,
    config: CondenseConfig,
    progress: bool,
    ranks: Ranks,
) -> FeatureNetwork | None:
    """The network trained on the real data, frozen; None if nothing needs one.

    Raises:
        ArtefactError: The file of ``teacher.path`` cannot be used.
    """
    if not needs_teacher(config):
        return None
    device = data.images.device
    if config.teacher.path is not None:
        return load_teacher(config.teacher.path, data, config, device=device)
    saved = run.load("teacher", device)
    if saved is None and ranks.first:
        teacher = train_teacher(
            data,
            statistics,
            config,
            resume=run.load("teacher-training", device),
            keep=lambda _, state: run.save_sometimes("teacher-training", state),
            progress=progress,
        )
        run.save("teacher", teacher.state_dict())
    else:
        teacher = build_teacher(data, config).to(device)
        if saved is not None:
            teacher.load_state_dict(saved)
    ranks.copy_first(teacher)
    return frozen(teacher)


def starting_point(
    run: RunDirectory,
    sampler: ClassSampler,
    data: ImageData,
    statistics: PixelStatistics,
    teacher: FeatureNetwork | None,
    config: CondenseConfig,
    progress: bool,
    ranks: Ranks,
) -> Synthesiser:
    """A synthesiser with class embeddings, pre-trained as configured.

    Args:
        run: Where it is kept, and looked for first.
        sampler: Real images; its device is the synthesiser's.
        data: The same images, for class means of features.
        statistics: Of the training images.
        teacher: As `prepare_teacher` returns it.
        config: Of the run.
        progress: Whether to show progress on stderr.
        ranks: Processes that start with the same weights; the first one trains.
    """
    embedding = _class_embedding(sampler, data, statistics, teacher, config)
    spec = SynthesiserSpec.from_config(
        config.format,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        embedding_dim=embedding.shape[1],
        class_counts=data.counts.tolist(),
    )
    with seeded_initialisation(config.seed, "synthesiser"):
        synthesiser = build_synthesiser(spec, seed=config.seed)
    synthesiser.class_embedding.copy_(embedding)
    synthesiser.to(sampler.device)
    saved = run.load("start", sampler.device)
    if saved is not None:
        synthesiser.load_state_dict(saved)
    elif ranks.first:
        _pretrain(run, synthesiser, sampler, statistics, teacher, config, progress)
    ranks.copy_first(synthesiser)
    return synthesiser


def train_experts(
    run: RunDirectory,
    sampler: ClassSampler,
    statistics: PixelStatistics,
    config: CondenseConfig,
    *,
    progress: bool = True,
) -> list[Expert] | None:
    """The experts of a run, or None if none are wanted; each is kept when trained.

    Args:
        run: Where they are kept.
        sampler: The real images.
        statistics: Normalisation.
        config: Of the run.
        progress: Whether to show progress on stderr.

    Raises:
        RunError: The disk is full or a kept expert is not readable.
    """
    if not config.loss.trajectory:
        return None
    options = config.trajectory
    each = options.snapshots * options.snapshot_steps
    total = options.experts * each
    experts: list[Expert] = []
    with RunLog(None, total=total, description="experts", progress=progress) as log:
        for index in range(options.experts):
            expert: Expert | None = run.load(f"expert-{index}", sampler.device)
            if expert is None:
                expert = train_expert(
                    index,
                    sampler,
                    options,
                    statistics=statistics,
                    augment=SiameseAugment.from_text(
                        config.augment, flip=config.data.flip
                    ),
                    seed=config.seed,
                )
                run.save(f"expert-{index}", expert)
            experts.append(expert)
            log.advance((index + 1) * each)
    return experts


def _pretrain(
    run: RunDirectory,
    synthesiser: Synthesiser,
    sampler: ClassSampler,
    statistics: PixelStatistics,
    teacher: FeatureNetwork | None,
    config: CondenseConfig,
    progress: bool,
) -> None:
    total = config.pretrain.steps
    with RunLog(None, total=total, description="pretrain", progress=progress) as log:
        pretrain(
            synthesiser,
            sampler,
            statistics,
            config.pretrain,
            extractor=teacher,
            seed=config.seed,
            log=log,
        )
    run.save("start", synthesiser.state_dict())


def _class_embedding(
    sampler: ClassSampler,
    data: ImageData,
    statistics: PixelStatistics,
    teacher: FeatureNetwork | None,
    config: CondenseConfig,
) -> Tensor:
    if config.format.embedding == "one_hot":
        return one_hot_embedding(data.num_classes)
    network = teacher
    if config.format.embedding == "online" or network is None:
        network = build_phi(config, data).to(sampler.device)
    if config.teacher.mean_images is not None:
        rng = make_generator(config.seed, "class-means")
        data = data.thin(config.teacher.mean_images, rng)
    means = class_mean_features(network, data, statistics)
    return standardise(means)
