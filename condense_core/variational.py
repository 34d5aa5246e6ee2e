"""Variational pre-training: G as the decoder of the task's whole data set.

`fit_targets` teaches G K images per class; here it learns to draw all of them, so that
a *fresh* code is as good as one of the codebook. An encoder, thrown away afterwards,
turns every real image into a Gaussian over codes, and G is trained to undo it
(Kingma & Welling 2014), with little weight on the divergence from N(0, I)
(Higgins et al. 2017). The codes of a class then no longer fill N(0, I); where they lie
is measured at the end and kept as the class's code map (the ex-post density of Ghosh et
al. 2020), so that one codebook, and one prior, serve all classes: their mean and
covariance, or a mixture of Gaussians around cluster centres.

With a network phi, what G makes of an image is compared in phi's features too (Eq. 2,
every image with its own): what a network looks at counts for more than a pixel.

Shape legend: B batch, N images of a class, Y classes, M components, Z latent dimension,
H hidden units, C H W image.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense_core.clusters import cluster_centres
from condense_core.compute.mode import full_precision
from condense_core.config import PretrainConfig
from condense_core.data import PixelStatistics, to_unit
from condense_core.data.class_sampler import ClassSampler
from condense_core.losses.paired_matching import paired_matching_loss
from condense_core.networks import FeatureNetwork
from condense_core.runlog import RunLog
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import GeneratorSynthesiser

HIDDEN_UNITS = 400  # of the encoder; it is not stored
CODED_IMAGES = 6000  # of each class, at most, that its code map is measured on
CODED_AT_ONCE = 512
JITTER = 1e-4  # on the diagonal of a covariance: a class of one image has none
SMALLEST_SHARE = 1e-6  # of a component nobody is in; int8 holds its logarithm


class Encoder(nn.Module):
    """An MLP from an image and its class to a Gaussian over codes."""

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, latent_dim: int
    ) -> None:
        """Two hidden layers."""
        super().__init__()
        self.num_classes = num_classes
        inputs = math.prod(image_shape) + num_classes
        self.layers = nn.Sequential(
            nn.Linear(inputs, HIDDEN_UNITS),
            nn.ReLU(),
            nn.Linear(HIDDEN_UNITS, HIDDEN_UNITS),
            nn.ReLU(),
            nn.Linear(HIDDEN_UNITS, 2 * latent_dim),
        )

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log variances (B, Z) of images in [0, 1]."""
        conditions = F.one_hot(labels_B, self.num_classes).to(images_BCHW.dtype)
        inputs = torch.cat([2.0 * images_BCHW.flatten(1) - 1.0, conditions], dim=1)
        mean_BZ, log_variance_BZ = self.layers(inputs).chunk(2, dim=1)
        return mean_BZ, log_variance_BZ


def train_variationally(
    synthesiser: GeneratorSynthesiser,
    sampler: ClassSampler,
    config: PretrainConfig,
    *,
    seed: int,
    log: RunLog,
    statistics: PixelStatistics,
    network: FeatureNetwork | None = None,
    warm_start: bool = False,
) -> None:
    """Train G as a decoder, then measure the code map if the format has one.

    Args:
        synthesiser: On the sampler's device, its class embedding already set.
        sampler: The real images.
        config: Steps, batch, learning rate and weights of the terms.
        seed: Of the encoder and every draw.
        log: Shows progress.
        statistics: Normalisation of what ``network`` sees.
        network: phi, frozen; needed where ``feature_weight`` is above 0.
        warm_start: G can draw already: for a quarter of the steps the new encoder
            learns alone, lest it mislead G.
    """
    assert network is not None or not config.feature_weight
    spec, device = synthesiser.spec, sampler.device
    with seeded_initialisation(seed, "encoder"):
        encoder = Encoder(spec.image_shape, spec.num_classes, spec.latent_dim)
    encoder.to(device)
    parameters = [*encoder.parameters(), *synthesiser.generator.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, start_factor=1.0, end_factor=0.0, total_iters=config.steps
    )
    # A quarter faster on a CPU at these widths.
    synthesiser.generator.to(memory_format=torch.channels_last)
    synthesiser.train()
    for step in range(config.steps):
        rng = make_generator(seed, "variational", step)
        decoding = not warm_start or step >= config.steps // 4
        synthesiser.generator.train(decoding).requires_grad_(decoding)
        real, labels = sampler.batch(config.batch_size, rng)
        mean_BZ, log_variance_BZ = encoder(real, labels)
        noise_BZ = torch.randn(mean_BZ.shape, generator=rng)
        noise_BZ = noise_BZ.to(device, non_blocking=True)
        codes_BZ = mean_BZ + noise_BZ * (0.5 * log_variance_BZ).exp()
        images = synthesiser.generator(codes_BZ, synthesiser.class_embedding[labels])
        reconstruction = F.binary_cross_entropy(images, real, reduction="sum")
        divergence = gaussian_divergence(mean_BZ, log_variance_BZ).sum()
        loss = (reconstruction + config.kl_weight * divergence) / len(real)
        if config.feature_weight and network is not None and decoding:
            features = _feature_error(network, statistics, images, real)
            loss = loss + config.feature_weight * features
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        log.advance(step + 1, variational=loss)
    synthesiser.generator.to(memory_format=torch.contiguous_format)
    _standardise_codes(synthesiser)
    if spec.code_map == "per_class":
        _measure_code_map(synthesiser, encoder, sampler, seed=seed)
    if spec.dispersion:
        _measure_dispersion(synthesiser, encoder, sampler)


def _feature_error(
    network: FeatureNetwork, statistics: PixelStatistics, made: Tensor, real: Tensor
) -> Tensor:
    with torch.no_grad():
        real_layers = network.layer_features(statistics.normalise(real))
    layers = network.layer_features(statistics.normalise(made))
    return paired_matching_loss(
        [full_precision(layer) for layer in layers],
        [full_precision(layer) for layer in real_layers],
    )


def gaussian_divergence(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) of every row, in nats: (B,)."""
    excess = mean_BZ.square() + log_variance_BZ.exp() - log_variance_BZ - 1.0
    return 0.5 * excess.sum(dim=1)


@torch.no_grad()
def _standardise_codes(synthesiser: GeneratorSynthesiser) -> None:
    """Codes of mean 0 and deviation 1: fresh codes are drawn from these two.

    A single code becomes 0; the deviation of its draws is 1 in any case.
    """
    codes_KZ = synthesiser.codebook.codes
    centred = codes_KZ - codes_KZ.mean(dim=0)
    codes_KZ.copy_(centred / centred.std(dim=0, unbiased=False).clamp_min(JITTER))


@torch.no_grad()
def _measure_dispersion(
    synthesiser: GeneratorSynthesiser, encoder: Encoder, sampler: ClassSampler
) -> None:
    """Squared residuals of each class in units of x (1 - x), x what G makes of codes.

    The moment estimate of a quasi-binomial dispersion.
    """
    synthesiser.eval()
    for label in range(len(sampler.classes)):
        residual, scale = torch.zeros(2, device=sampler.device)
        for part in sampler.all_of(label)[:CODED_IMAGES].split(CODED_AT_ONCE):
            real = to_unit(part)
            labels = torch.full((len(part),), label, device=sampler.device)
            codes_BZ, _ = encoder(real, labels)
            drawn = synthesiser.generator(codes_BZ, synthesiser.class_embedding[labels])
            residual += (real - drawn).square().sum()
            scale += (drawn * (1.0 - drawn)).sum()
        synthesiser.dispersion[label] = residual / scale.clamp_min(JITTER)
    synthesiser.dispersion.clamp_(0.0, 1.0)
    synthesiser.train()


@torch.no_grad()
def _measure_code_map(
    synthesiser: GeneratorSynthesiser,
    encoder: Encoder,
    sampler: ClassSampler,
    *,
    seed: int,
) -> None:
    """Means, shares and Cholesky factor of the components of each class's codes.

    They are k-means clusters with one covariance, that of the codes around their
    centres (tied covariances of a Gaussian mixture, assigned hard).
    """
    spec = synthesiser.spec
    identity = torch.eye(spec.latent_dim, device=sampler.device)
    first = 0  # component of the class
    for label in range(len(sampler.classes)):
        images = to_unit(sampler.all_of(label)[:CODED_IMAGES])
        labels = torch.full((len(images),), label, device=sampler.device)
        mean_NZ, log_variance_NZ = encoder(images, labels)
        components = spec.code_components[label] if spec.code_components else 1
        centres_MZ = cluster_centres(
            mean_NZ, components, generator=make_generator(seed, "code-map", label)
        )
        nearest_N = torch.cdist(mean_NZ, centres_MZ).argmin(dim=1)
        around_NZ = mean_NZ - centres_MZ[nearest_N]
        spread = around_NZ.T @ around_NZ / len(images)
        within = torch.diag(log_variance_NZ.exp().mean(dim=0))
        synthesiser.code_factor[label] = torch.linalg.cholesky(
            spread + within + JITTER * identity
        )
        if not spec.code_components:
            synthesiser.code_mean[label] = centres_MZ[0]
            continue
        own = slice(first, first := first + components)
        shares_M = torch.bincount(nearest_N, minlength=components) / len(images)
        synthesiser.component_mean[:, own] = centres_MZ.T
        synthesiser.component_logit[0, own] = shares_M.clamp_min(SMALLEST_SHARE).log()
