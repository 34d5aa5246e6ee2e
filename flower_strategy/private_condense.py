"""A generator from noised statistics alone: post-processing, at no further cost.

The generator is trained so that the mean features of its images match the noised means
of each class (DP-MERF, Harder et al. 2021; the mean matching of Zheng & Li 2023). Real
images, and numbers without noise, are never used here.

Shape legend: Y classes, K codes per step, D features, C H W image.
"""

from dataclasses import asdict, replace

import torch
from torch import Tensor

from condense_core.artefact import CondensedDataset
from condense_core.class_embedding import one_hot_embedding
from condense_core.config import FormatConfig
from condense_core.errors import ConfigError, DataError
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import (
    GeneratorSynthesiser,
    SynthesiserSpec,
    build_synthesiser,
)
from flower_strategy.privacy import NoisyStatistics, RandomFeatures, clipped

# How the generator is fitted; all of it public.
STEPS = 300  # generator updates
LEARNING_RATE = 5e-3  # of Adam, decayed to 0 along a half cosine
# From the codebook, and the same number of fresh ones, per class and step.
CODES_PER_STEP = 10
# Weight of the mean squared distance between the features of an image and their class
# mean: matching means alone does not constrain single images.
SPREAD_WEIGHT = 0.3
# Weight of the total variation: mean absolute differences between neighbouring pixels.
SMOOTHNESS = 0.1


def condense_privately(
    statistics: NoisyStatistics,
    form: FormatConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> tuple[CondensedDataset, dict[str, float | str]]:
    """Fit a generator to the classes that are present according to noised counts.

    Args:
        statistics: Noised statistics of one client.
        form: Sizes of the generator. The class embedding is always one-hot, since the
            other kinds are computed from real images.
        seed: For initialisation and random draws. May be public.
        device: Where to compute.

    Returns:
        The condensed set of the classes in ``statistics.kept``, and the guarantee,
        which is also in its metadata under ``privacy``.

    Raises:
        ConfigError: The format is not a generator, or the extractor does not fit.
        DataError: No class is left, or the features have another size.
    """
    if form.kind != "generator":
        raise ConfigError(
            f"format.kind is {form.kind!r}: private statistics need kind='generator'"
        )
    kept = statistics.kept
    if not kept:
        raise DataError(
            "no class has enough images with this noise: lower min-class-count or "
            "raise dp-epsilon"
        )
    targets_YD = class_means(statistics).to(device)
    extractor = RandomFeatures(statistics.config, statistics.image_shape).to(device)
    if targets_YD.shape[1] != len(extractor.centre):
        raise DataError(
            f"the statistics have {targets_YD.shape[1]} features, their extractor "
            f"{len(extractor.centre)}: release them with the same configuration"
        )
    synthesiser = _fresh(form, statistics.image_shape, len(kept), seed).to(device)
    _fit(synthesiser, extractor, targets_YD, seed=seed)
    report = statistics.report()
    condensed = CondensedDataset.from_synthesiser(
        synthesiser,
        classes=[statistics.classes[label] for label in kept],
        statistics=extractor.statistics,
        precision=form.precision,
        config={"format": asdict(form), "seed": seed},
        privacy=report,
    )
    return condensed, report


def class_means(statistics: NoisyStatistics) -> Tensor:
    """Noised means of the kept classes (Y_kept, D), clipped again.

    A mean of clipped features is not longer than ``clip``, but noise can make it so.
    """
    kept = list(statistics.kept)
    counts_Y1 = statistics.counts_Y[kept].clamp_min(1.0).unsqueeze(1)
    return clipped(statistics.sums_YD[kept] / counts_Y1, statistics.config.clip)


def matching_loss(
    features_YKD: Tensor, targets_YD: Tensor, *, spread_weight: float, clip: float
) -> Tensor:
    """Squared distance of means to targets, and of features to their means.

    Summed over classes, in units of the clipping norm, so its value does not matter.
    """
    means_YD = features_YKD.mean(dim=1)
    distance = (means_YD - targets_YD).square().sum()
    spread = (features_YKD - means_YD.unsqueeze(1)).square().sum(dim=2).mean(dim=1)
    loss: Tensor = (distance + spread_weight * spread.sum()) / clip**2
    return loss


def _fresh(
    form: FormatConfig, image_shape: tuple[int, int, int], classes: int, seed: int
) -> GeneratorSynthesiser:
    # Components are clusters of real codes, and there are no real codes here.
    spec = SynthesiserSpec.from_config(
        replace(form, code_components=1),
        image_shape=image_shape,
        num_classes=classes,
        embedding_dim=classes,
    )
    with seeded_initialisation(seed, "private-synthesiser"):
        synthesiser = build_synthesiser(spec, seed=seed)
    assert isinstance(synthesiser, GeneratorSynthesiser)
    synthesiser.class_embedding.copy_(one_hot_embedding(classes))
    return synthesiser


def _fit(
    synthesiser: GeneratorSynthesiser,
    extractor: RandomFeatures,
    targets_YD: Tensor,
    *,
    seed: int,
) -> None:
    device, spec = targets_YD.device, synthesiser.spec
    optimiser = torch.optim.Adam(synthesiser.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    class_ids = torch.arange(spec.num_classes, device=device)
    synthesiser.train()
    for step in range(STEPS):
        rng = make_generator(seed, "private-matching", step)
        codes_KZ = _codes(synthesiser, rng)
        images_YKCHW = synthesiser.from_codes(class_ids, codes_KZ)
        features = extractor(images_YKCHW.flatten(0, 1))
        loss = matching_loss(
            features.unflatten(0, images_YKCHW.shape[:2]),
            targets_YD,
            spread_weight=SPREAD_WEIGHT,
            clip=extractor.config.clip,
        )
        loss = loss + SMOOTHNESS * total_variation(images_YKCHW)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _codes(synthesiser: GeneratorSynthesiser, rng: torch.Generator) -> Tensor:
    """Codes from the codebook and fresh ones: the artefact is sampled either way."""
    codes_KZ = synthesiser.codebook.codes
    chosen = torch.randperm(len(codes_KZ), generator=rng)[:CODES_PER_STEP]
    fresh = torch.randn(len(chosen), codes_KZ.shape[1], generator=rng)
    return torch.cat([codes_KZ[chosen.to(codes_KZ.device)], fresh.to(codes_KZ.device)])


def total_variation(images_YKCHW: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, summed over both directions."""
    rows, columns = images_YKCHW.diff(dim=-2), images_YKCHW.diff(dim=-1)
    total: Tensor = rows.abs().mean() + columns.abs().mean()
    return total
