"""Where generator and codebook start (Zhang et al. 2023, sec. 4.2).

The paper pre-trains G adversarially on the task's data. `fit_targets` is the
generator's equal of the real-image start that every pixel method uses: G and Z are
fitted so that G(z_k, c_y) reproduces K given images of class y. Cluster centres are
the default targets: nobody's image, and near the class means that matching aims at.
Medoids are the real images nearest to the centres of clusters in the feature space of
a trained network: representative images, which on their own are a far better set than
random ones (the clusters of DREAM, Liu et al. 2023, as a start).

Shape legend: Y classes, K codes, B batch, N images of a class, C H W image, P pixels or
features.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from condense_core.clusters import cluster_centres
from condense_core.config import PretrainConfig
from condense_core.data import PixelStatistics, to_unit
from condense_core.data.class_sampler import ClassSampler
from condense_core.data.mapped import gather
from condense_core.discriminator import ImageDiscriminator
from condense_core.losses import adversarial
from condense_core.networks import FeatureNetwork
from condense_core.runlog import RunLog
from condense_core.seeding import make_generator, random_subset
from condense_core.synthesiser import (
    GeneratorSynthesiser,
    PixelSynthesiser,
    Synthesiser,
)
from condense_core.variational import train_variationally

CLUSTER_IMAGES = 5000  # of each class, at most: centres of more differ by noise
FEATURE_BATCH = 512
ADAM_BETAS = (0.0, 0.9)  # of GAN training, as in SAGAN and DiM
R1_WEIGHT = 1.0

Embed = Callable[[Tensor], Tensor]  # images (N, C, H, W) in [0, 1] to vectors (N, P)


def pixel_space(images_NCHW: Tensor) -> Tensor:
    """Images as vectors: (N, P)."""
    return images_NCHW.flatten(1)


def pretrain(
    synthesiser: Synthesiser,
    sampler: ClassSampler,
    statistics: PixelStatistics,
    config: PretrainConfig,
    *,
    extractor: FeatureNetwork | None = None,
    seed: int,
    log: RunLog,
) -> None:
    """Bring a synthesiser to its starting point, in place.

    Args:
        synthesiser: On the sampler's device, its class embedding already set.
        sampler: The real images.
        statistics: Their normalisation.
        config: Method and length.
        extractor: Network whose features ``medoids`` are chosen in, None for pixels,
            and ``feature_weight`` compares.
        seed: Of every draw.
        log: Shows progress.
    """
    if config.method == "none":
        return
    if config.method == "adversarial" and isinstance(synthesiser, GeneratorSynthesiser):
        train_adversarially(
            synthesiser, sampler, statistics, config, seed=seed, log=log
        )
        return
    if config.method == "variational" and isinstance(synthesiser, GeneratorSynthesiser):
        train_variationally(
            synthesiser,
            sampler,
            config,
            seed=seed,
            log=log,
            statistics=statistics,
            network=extractor,
        )
        return
    images_per_class = synthesiser.spec.images_per_class
    embed: Embed = pixel_space
    if extractor is not None:
        embed = partial(spatial_features, extractor, statistics)
    targets = reconstruction_targets(
        sampler, images_per_class, kind=config.targets, seed=seed, embed=embed
    )
    if isinstance(synthesiser, PixelSynthesiser):
        synthesiser.set_images(targets)
    else:
        fit_targets(synthesiser, targets, config, seed=seed, log=log)


def reconstruction_targets(
    sampler: ClassSampler,
    images_per_class: int,
    *,
    kind: str,
    seed: int,
    embed: Embed = pixel_space,
) -> Tensor:
    """K images of each class to start from: (Y, K, C, H, W) in [0, 1].

    Args:
        sampler: The real images.
        images_per_class: K. A class with fewer images repeats some (``images``,
            ``medoids``), or some of its centres coincide (``centres``).
        kind: ``images`` for random real images, ``centres`` for cluster centres,
            ``medoids`` for the real images nearest to cluster centres.
        seed: Of the choice.
        embed: Space that ``medoids`` are chosen in.
    """
    targets = []
    for label in range(len(sampler.counts)):
        generator = make_generator(seed, "targets", label)
        images = sampler.all_of(label)
        order = torch.randperm(len(images), generator=generator).to(images.device)
        if kind == "images":
            pick = order[torch.arange(images_per_class) % len(order)]
            targets.append(to_unit(gather(images, pick)))
            continue
        chosen = to_unit(gather(images, order[:CLUSTER_IMAGES]))
        points = chosen.flatten(1) if kind == "centres" else embed(chosen)
        centres = cluster_centres(points, images_per_class, generator=generator)
        if kind == "centres":
            targets.append(centres.unflatten(1, images.shape[1:]))
        else:
            targets.append(chosen[torch.cdist(centres, points).argmin(dim=1)])
    return torch.stack(targets)


@torch.no_grad()
def spatial_features(
    network: FeatureNetwork, statistics: PixelStatistics, images_NCHW: Tensor
) -> Tensor:
    """Last-layer features before pooling, flattened: (N, P)."""
    return torch.cat(
        [
            network.layer_features(statistics.normalise(part))[-1].flatten(1)
            for part in images_NCHW.split(FEATURE_BATCH)
        ]
    )


def fit_targets(
    synthesiser: Synthesiser,
    targets_YKCHW: Tensor,
    config: PretrainConfig,
    *,
    seed: int,
    log: RunLog,
) -> None:
    """Fit codebook and generator so that G(z_k, c_y) reproduces its target.

    Mean squared error, Adam with a linear decay, on stratified batches: some codes
    of all classes or, of more classes than fit, one code of some.
    """
    classes, codes = targets_YKCHW.shape[:2]
    device = targets_YKCHW.device
    optimiser = torch.optim.Adam(synthesiser.parameters(), lr=config.learning_rate)
    codes_per_step = max(1, min(codes, config.batch_size // classes))
    classes_per_step = min(classes, config.batch_size)
    synthesiser.train()
    for step in range(config.steps):
        generator = make_generator(seed, "pretrain", step)
        class_ids = random_subset(classes, classes_per_step, generator, device)
        code_ids = random_subset(codes, codes_per_step, generator, device)
        images = synthesiser(class_ids, code_ids)
        loss = F.mse_loss(images, targets_YKCHW[class_ids][:, code_ids])
        optimiser.zero_grad()
        loss.backward()
        _decay(optimiser, config, step)
        optimiser.step()
        log.advance(step + 1, reconstruction=loss)


def train_adversarially(
    synthesiser: GeneratorSynthesiser,
    sampler: ClassSampler,
    statistics: PixelStatistics,
    config: PretrainConfig,
    *,
    seed: int,
    log: RunLog,
) -> None:
    """Pre-train G as a conditional GAN on the real images.

    Codes are drawn anew from the codebook's prior. The discriminator is a ConvNet whose
    pooled feature and c(y) go to the same head as in Eq. 1, with an R1 gradient penalty
    on real images for stability.
    """
    spec, device = synthesiser.spec, sampler.device
    discriminator = ImageDiscriminator.build(
        image_shape=spec.image_shape,
        num_classes=spec.num_classes,
        condition_dim=spec.embedding_dim,
        width=spec.channels,
        seed=seed,
    ).to(device)
    g_optimiser = torch.optim.Adam(
        synthesiser.generator.parameters(), lr=config.learning_rate, betas=ADAM_BETAS
    )
    d_optimiser = torch.optim.Adam(
        discriminator.parameters(), lr=config.learning_rate, betas=ADAM_BETAS
    )
    batch = config.batch_size
    synthesiser.train()
    for step in range(config.steps):
        rng = make_generator(seed, "gan", step)
        real, labels = sampler.batch(batch, rng)
        real = statistics.normalise(real).requires_grad_()
        codes = synthesiser.codebook.draw(batch, spec.latent_dim, rng)
        codes = codes.to(device, non_blocking=True)
        conditions = synthesiser.class_embedding[labels]
        fake = statistics.normalise(synthesiser.generator(codes, conditions))

        real_logits = discriminator(real, conditions)
        d_loss = adversarial.discriminator_loss(
            real_logits, discriminator(fake.detach(), conditions)
        )
        (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
        penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
        d_optimiser.zero_grad()
        (d_loss + 0.5 * R1_WEIGHT * penalty).backward()
        _decay(d_optimiser, config, step)
        d_optimiser.step()

        g_loss = adversarial.generator_loss(discriminator(fake, conditions))
        g_optimiser.zero_grad()
        # Not of D: its next step starts from gradients of its own.
        g_loss.backward(inputs=list(synthesiser.generator.parameters()))
        _decay(g_optimiser, config, step)
        g_optimiser.step()
        log.advance(step + 1, discriminator=d_loss, generator=g_loss)


def _decay(optimiser: torch.optim.Optimizer, config: PretrainConfig, step: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * (1.0 - step / config.steps)
