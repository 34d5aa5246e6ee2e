"""Differentially private class statistics: all a client reveals about its images.

Condensation alone protects nobody. Here a client releases one vector with Gaussian
noise: the clipped random features of its images, summed by class, and the class counts.
Everything after that (`flower_strategy.private_condense`) is post-processing. The
approach is that of DP-MERF (Harder et al. 2021) and of Zheng & Li 2023, "Differentially
private dataset condensation": features of *untrained* networks cost no budget. One
release is one Gaussian mechanism, whose delta(epsilon) is known exactly (Balle & Wang
2018).

What the guarantee covers: anyone who sees the release, including the server, learns
almost the same whether or not any single image was among a client's. Not covered: a
person with n images (account for n times the sensitivity), replacing an image (a
removal and an addition), a second release of the same images (k releases are like one
with sigma / sqrt(k)), settings tuned on the private images, the fact that a client
takes part, and the difference between floating-point and real numbers.

Shape legend: N images, B batch, Y classes, D features, C H W image.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from condense_core.config.strict import non_negative, positive
from condense_core.data import ImageData, PixelStatistics, to_unit
from condense_core.errors import ConfigError, DataError
from condense_core.networks import build_network
from condense_core.seeding import derive_seed, make_generator
from flower_strategy.accounting import check_delta, gaussian_sigma

ADJACENCY = "add or remove one image"
FEATURE_BATCH = 256
PUBLIC_IMAGES = 512
COUNT_MARGIN = 2.0  # standard deviations a noised count must clear the threshold by


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig:
    """The budget and the public extractor; the same for the server and every client.

    Raises:
        ConfigError: A value is out of range.
    """

    epsilon: float
    """Privacy loss of one release; infinity adds no noise and protects nobody."""
    delta: float = 1e-5
    """Probability-like slack; keep it well below one over the number of images."""
    clip: float = 0.2
    """L2 norm to which longer features of an image are scaled down. If nearly all are
    longer, its value makes no difference: the noise scales with it."""
    count_scale: float = 0.3
    """One image adds ``count_scale * clip`` to a count in the released vector: a larger
    value makes counts more precise and sums noisier."""
    min_class_count: float = 10.0
    """Images a class needs to be condensed; see `NoisyStatistics.kept`."""
    seed: int = 0
    """For the extractor. Public: it has nothing to do with the noise."""
    width: int = 32
    """Channels of the extractor."""

    def __post_init__(self) -> None:
        """Check ranges."""
        positive("epsilon", self.epsilon)
        check_delta(self.delta)
        for name in ("clip", "count_scale"):
            positive(name, getattr(self, name))
            if math.isinf(getattr(self, name)):
                raise ConfigError(f"{name} is infinite: choose a number")
        non_negative("min_class_count", self.min_class_count)

    @property
    def sensitivity(self) -> float:
        """L2 distance that one image can cause, by its feature and its count."""
        return self.clip * math.hypot(1.0, self.count_scale)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every released coordinate."""
        return gaussian_sigma(self.epsilon, self.delta, sensitivity=self.sensitivity)

    @property
    def sigma(self) -> float:
        """`noise_std` in units of ``clip``."""
        return self.noise_std / self.clip

    @property
    def count_std(self) -> float:
        """Standard deviation of the noise on a count, in images."""
        return self.sigma / self.count_scale


class RandomFeatures(nn.Module):
    """Clipped, centred features of an untrained network: fixed by the config.

    They are the entire output of the first block of a ConvNet.

    Pixels are normalised by 0.5 and 0.5, never by statistics of the data, and features
    are centred by those of smooth random images: all public, so it costs no budget.
    Without centring, most of the clipped norm would be what all images share.
    """

    centre: Tensor

    def __init__(
        self, config: PrivacyConfig, image_shape: tuple[int, int, int]
    ) -> None:
        """Build the network.

        Raises:
            ConfigError: It does not fit the images.
        """
        super().__init__()
        self.config = config
        grey = (0.5,) * image_shape[0]
        self.statistics = PixelStatistics(grey, grey)
        self.network = build_network(
            "convnet",
            image_shape=image_shape,
            num_classes=1,
            width=config.width,
            seed=derive_seed(config.seed, "private-features", 0),
        )
        # Later blocks would be computed for nothing.
        self.network.blocks = self.network.blocks[:1]
        self.eval().requires_grad_(False)
        self.register_buffer("centre", self._public_mean(image_shape))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, D) of images in [0, 1], each with a norm of at most ``clip``."""
        return clipped(self._raw(images_BCHW) - self.centre, self.config.clip)

    def _raw(self, images_BCHW: Tensor) -> Tensor:
        inputs = self.statistics.normalise(images_BCHW)
        features_BD = self.network.layer_features(inputs)[0].flatten(1)
        scaled_BD: Tensor = features_BD / math.sqrt(features_BD.shape[1])
        return scaled_BD

    def _public_mean(self, image_shape: tuple[int, int, int]) -> Tensor:
        rng = make_generator(self.config.seed, "public-images")
        channels, height, width = image_shape
        coarse = torch.rand(PUBLIC_IMAGES, channels, 4, 4, generator=rng)
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
        return torch.cat(
            [self._raw(part) for part in smooth.split(FEATURE_BATCH)]
        ).mean(0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoisyStatistics:
    """What a client releases; nothing else about its images leaves it.

    Attributes:
        sums_YD: Noised sums of the features of each class, float32.
        counts_Y: Noised numbers of images, float32; may be negative.
        classes: The public class list, in the order of the rows.
        image_shape: (C, H, W), public.
        config: Budget and extractor, public.

    Raises:
        DataError: The shapes do not fit, or a value is not finite.
    """

    sums_YD: Tensor
    counts_Y: Tensor
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    config: PrivacyConfig

    def __post_init__(self) -> None:
        """Check shapes and values: these may come from the network."""
        sums, counts = tuple(self.sums_YD.shape), tuple(self.counts_Y.shape)
        if len(sums) != 2 or (sums[0],) != counts or counts != (len(self.classes),):
            raise DataError(
                f"sums {sums} and counts {counts} do not fit {len(self.classes)} "
                "classes: give one row and one count per class"
            )
        if not (self.sums_YD.isfinite().all() and self.counts_Y.isfinite().all()):
            raise DataError("statistics are not finite: release them again")

    @property
    def kept(self) -> tuple[int, ...]:
        """Labels of the classes with enough images, judged by noised counts alone.

        A count must reach ``min_class_count`` plus two standard deviations of its
        noise. Otherwise, with strong noise, a class without images would often pass.
        """
        threshold = self.config.min_class_count + COUNT_MARGIN * self.config.count_std
        reached = (self.counts_Y >= threshold).nonzero().flatten()
        return tuple(int(label) for label in reached)

    def report(self) -> dict[str, float | str]:
        """The guarantee in numbers and short texts, JSON-ready."""
        config = self.config
        return {
            "mechanism": "analytic Gaussian, one release",
            "adjacency": ADJACENCY,
            "epsilon": config.epsilon if config.noise_std > 0 else "none",
            "delta": config.delta if config.noise_std > 0 else "none",
            "sigma": config.sigma,
            "clip": config.clip,
            "count_scale": config.count_scale,
            "sensitivity": config.sensitivity,
            "noise_std": config.noise_std,
        }


def release(
    data: ImageData,
    config: PrivacyConfig,
    *,
    classes: Sequence[str],
    device: torch.device | str = "cpu",
    test_generator: torch.Generator | None = None,
) -> NoisyStatistics:
    """Spend the budget: noised feature sums and counts of every public class.

    Which classes a client has is private too, so all classes are released, present or
    not. Call it once per set of images: every call spends the whole budget again.

    Args:
        data: The client's images, labelled by the public class list.
        config: Budget and extractor.
        classes: The public class list. A list derived from the client's labels would
            reveal which classes are absent.
        device: Where features are computed.
        test_generator: For tests only. By default the noise comes from the operating
            system: anyone who can repeat the draw can subtract it, so a seed that the
            server knows or guesses voids the guarantee. A `torch.Generator` would not
            be safe even with a secret 64-bit seed: on the CPU it uses only 32 bits.

    Raises:
        DataError: The classes of the data are not the public ones.
        ConfigError: The extractor does not fit the images.
    """
    if data.classes != tuple(classes):
        raise DataError(
            f"{data.name}: classes {list(data.classes)} are not the public ones "
            f"{list(classes)}: label the images by the public list"
        )
    vector_YV = statistics_vector(data, config, device=device)
    noise = _noise(vector_YV.numel(), test_generator).view_as(vector_YV)
    # Computed in float64, then rounded: the low bits of a double depend on how it was
    # computed, and can tell neighbouring sums apart (Mironov 2012).
    noised_YV = (vector_YV + config.noise_std * noise).float()
    return NoisyStatistics(
        sums_YD=noised_YV[:, :-1].contiguous(),
        counts_Y=noised_YV[:, -1] / (config.count_scale * config.clip),
        classes=data.classes,
        image_shape=data.image_shape,
        config=config,
    )


@torch.no_grad()
def statistics_vector(
    data: ImageData, config: PrivacyConfig, *, device: torch.device | str = "cpu"
) -> Tensor:
    """The vector before noise, **private**: (Y, D + 1), float64, on the CPU.

    One image adds its clipped feature to the first D columns of its class, and
    ``count_scale * clip`` to the last. So two sets that differ by one image are at most
    ``config.sensitivity`` apart.
    """
    extractor = RandomFeatures(config, data.image_shape).to(device)
    total = torch.zeros(
        data.num_classes, extractor.centre.numel() + 1, dtype=torch.float64
    )
    for images, labels_B in zip(
        data.images.split(FEATURE_BATCH), data.labels.split(FEATURE_BATCH), strict=True
    ):
        features_BD = extractor(to_unit(images.to(device))).double().cpu()
        # Again in float64: rounded to float32, a norm may slightly exceed the bound.
        features_BD = clipped(features_BD, config.clip)
        total[:, :-1].index_add_(0, labels_B.cpu(), features_BD)
    total[:, -1] = data.counts.cpu() * (config.count_scale * config.clip)
    return total


def clipped(rows_BD: Tensor, norm: float) -> Tensor:
    """Each row scaled down to an L2 norm of ``norm`` if it is longer; (B, D)."""
    norms_B1 = rows_BD.norm(dim=1, keepdim=True).clamp_min(1e-12)
    shorter_BD: Tensor = rows_BD * (norm / norms_B1).clamp_max(1.0)
    return shorter_BD


def _noise(count: int, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers, float64 (count,), from the operating system.

    Box & Muller 1958, on uniform numbers of 53 bits.
    """
    if generator is not None:
        return torch.randn(count, generator=generator, dtype=torch.float64)
    pairs = (count + 1) // 2
    words = np.frombuffer(secrets.token_bytes(16 * pairs), dtype=np.uint64)
    uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
    angle = 2.0 * math.pi * uniform[pairs:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return torch.from_numpy(normal[:count])
