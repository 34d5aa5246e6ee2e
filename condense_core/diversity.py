"""How diverse a condensed set is, in the feature space of a stated network.

The paper claims diversity within classes and margins between them (sec. 3.3, Fig. 4)
and shows pictures; these are numbers for both. Feature spaces differ, so that a number
means something only beside another of the same extractor: real images drawn at random,
as many as the images judged, are therefore measured beside them.

Shape legend: Y classes, N real images, M images judged, D feature.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from condense_core.compute.devices import resolve_device
from condense_core.data import ImageData, PixelStatistics, to_unit
from condense_core.errors import DataError
from condense_core.networks import FeatureNetwork, build_network
from condense_core.seeding import derive_seed, make_generator
from condense_core.training import Recipe, pooled_features, train_network

NEIGHBOURS = 5  # k of Naeem et al. 2020
REAL_IMAGES = 500  # of each class, at most
EXTRACTOR_WIDTH = 32
EXTRACTOR_STEPS = 300

ExtractorKind = Literal["trained", "random"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Measures of one set; all are means over classes.

    Attributes:
        pairwise_distance: Mean Euclidean distance of two images of a class; None with
            one image per class.
        coverage: Share of real images with an image of the set nearer than their k-th
            real neighbour, within their class, in [0, 1] (Naeem et al. 2020).
        density: How many such neighbourhoods an image of the set lies in, over k; near
            1 for real images, above where they crowd (the same paper).
        class_margin: How much nearer an image is to the real mean of its own class than
            to that of any other, over the mean distance of two real class means.
        right_side: Share of images whose margin is above 0, in [0, 1].
    """

    pairwise_distance: float | None
    coverage: float
    density: float
    class_margin: float
    right_side: float


def measure_diversity(
    images: Tensor,
    labels: Tensor,
    real: ImageData,
    *,
    statistics: PixelStatistics,
    extractor: ExtractorKind = "trained",
    flip: bool = True,
    seed: int = 0,
    device: str | torch.device = "auto",
) -> dict[str, Any]:
    """Measure a set of images and, beside it, as many random real ones.

    Args:
        images: (M, C, H, W) in [0, 1].
        labels: (M,) their classes.
        real: The real training images.
        statistics: Normalisation.
        extractor: A ConvNet trained on the real images for a few epochs, or with its
            random first weights.
        flip: Whether the extractor may be trained on mirrored images.
        seed: Of extractor and draws.
        device: ``"auto"`` or a torch device.

    Returns:
        JSON-ready: `Diversity` of the set and, under ``random_real``, of the real
        images (None where a class has too few of them); ``coverage_expected`` of images
        from the real distribution; ``neighbours``, ``real_per_class``, ``extractor``.

    Raises:
        DataError: A class has no image in the set, or fewer than seven real ones, or
            there is only one.
    """
    device = resolve_device(device)
    real = real.to(device)
    if real.num_classes < 2:
        raise DataError("one class has no margin to another: diversity needs two")
    judged_Y = torch.bincount(labels.cpu(), minlength=real.num_classes)
    if int(judged_Y.min()) == 0:
        name = real.classes[int(judged_Y.argmin())]
        raise DataError(f"class {name!r} has no image in the set: nothing to measure")
    smallest = int(real.counts.min())
    if smallest < NEIGHBOURS + 2:
        name = real.classes[int(real.counts.argmin())]
        raise DataError(
            f"class {name!r} has {smallest} real images, diversity needs at least "
            f"{NEIGHBOURS + 2}"
        )
    network = build_extractor(
        real, statistics=statistics, kind=extractor, flip=flip, seed=seed
    )
    # Random real images are held apart from those whose neighbourhoods they fall into.
    judged = int(judged_Y.max())
    beside = min(smallest - NEIGHBOURS - 1, judged)
    centres, drawn = [], []
    for label in range(real.num_classes):
        members = (real.labels == label).nonzero().squeeze(1)
        rng = make_generator(seed, "diversity", label)
        order = members[torch.randperm(len(members), generator=rng).to(device)]
        drawn.append(order[:beside])
        centres.append(order[beside : beside + REAL_IMAGES])
    reference = real.subset(torch.cat(centres))
    features_ND = pooled_features(network, reference.images, statistics)

    def measured(pixels: Tensor, classes: Tensor) -> dict[str, Any]:
        return asdict(
            diversity(
                pooled_features(network, pixels.to(device), statistics),
                classes.to(device),
                features_ND,
                reference.labels,
            )
        )

    random_real = real.subset(torch.cat(drawn))
    per_class = int(reference.counts.min())
    return {
        **measured(images, labels),
        "random_real": (
            measured(to_unit(random_real.images), random_real.labels)
            if beside == judged
            else None
        ),
        "coverage_expected": expected_coverage(per_class, judged),
        "neighbours": NEIGHBOURS,
        "real_per_class": per_class,
        "extractor": {
            "network": "convnet",
            "width": EXTRACTOR_WIDTH,
            "weights": extractor,
            "steps": EXTRACTOR_STEPS if extractor == "trained" else 0,
            "seed": seed,
        },
    }


def summary(report: dict[str, Any]) -> str:
    """One line: every measure, and in brackets that of the random real images."""

    def text(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    beside = report["random_real"] or {}
    measures = ", ".join(
        f"{field.name.replace('_', ' ')} {text(report[field.name])} "
        f"({text(beside.get(field.name))})"
        for field in fields(Diversity)
    )
    extractor = report["extractor"]
    return (
        f"diversity in the features of a {extractor['weights']} {extractor['network']} "
        f"of width {extractor['width']} (as many random real images): {measures}"
    )


def build_extractor(
    real: ImageData,
    *,
    statistics: PixelStatistics,
    kind: ExtractorKind,
    flip: bool,
    seed: int,
) -> FeatureNetwork:
    """The network that features are taken from, on the device of the data."""
    network = build_network(
        "convnet",
        image_shape=real.image_shape,
        num_classes=real.num_classes,
        width=EXTRACTOR_WIDTH,
        seed=derive_seed(seed, "diversity"),
    ).to(real.images.device)
    if kind == "trained":
        train_network(
            network,
            real.images,
            real.labels,
            recipe=Recipe("extractor", epochs=EXTRACTOR_STEPS),
            statistics=statistics,
            seed=derive_seed(seed, "diversity"),
            flip=flip,
            max_steps=EXTRACTOR_STEPS,
        )
    return network.eval()


def diversity(
    features_MD: Tensor,
    labels_M: Tensor,
    real_ND: Tensor,
    real_labels_N: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
) -> Diversity:
    """All measures of a set from features.

    Args:
        features_MD: Of the images judged; every class occurs.
        labels_M: Their classes.
        real_ND: Of real images, more than ``neighbours`` of each class.
        real_labels_N: Their classes.
        neighbours: k.
    """
    classes = int(real_labels_N.max()) + 1
    distances, coverages, densities = [], [], []
    for label in range(classes):
        mine = features_MD[labels_M == label]
        real = real_ND[real_labels_N == label]
        if len(mine) > 1:
            distances.append(torch.pdist(mine.double()).mean())
        coverage, density = coverage_and_density(mine, real, neighbours=neighbours)
        coverages.append(coverage)
        densities.append(density)
    margins = class_margins(features_MD, labels_M, real_ND, real_labels_N)
    return Diversity(
        pairwise_distance=_mean(distances) if distances else None,
        coverage=_mean(coverages),
        density=_mean(densities),
        class_margin=float(margins.mean()),
        right_side=float((margins > 0).double().mean()),
    )


def coverage_and_density(
    features_MD: Tensor, real_ND: Tensor, *, neighbours: int = NEIGHBOURS
) -> tuple[Tensor, Tensor]:
    """Coverage and density of `Naeem et al. 2020 <https://arxiv.org/abs/2002.09797>`_.

    With B_i the ball around real x_i that reaches its k-th nearest other real image,
    coverage is the mean over i of 1[some y_j in B_i], density the sum over i and j of
    1[y_j in B_i] / (k M).

    Args:
        features_MD: y, at least one.
        real_ND: x, more than k.
        neighbours: k.
    """
    real_ND, features_MD = real_ND.double(), features_MD.double()
    between_NN = torch.cdist(
        real_ND, real_ND, compute_mode="donot_use_mm_for_euclid_dist"
    )
    # The nearest of all is the image itself.
    radius_N = between_NN.kthvalue(neighbours + 1, dim=1).values
    inside_NM = torch.cdist(real_ND, features_MD) <= radius_N.unsqueeze(1)
    covered = inside_NM.any(dim=1).double().mean()
    return covered, inside_NM.double().mean(dim=1).sum() / neighbours


def expected_coverage(real: int, judged: int, *, neighbours: int = NEIGHBOURS) -> float:
    """Coverage expected of images of the very distribution of the real ones.

    One minus the chance that the k nearest of the N - 1 + M others are all real (Naeem
    et al. 2020, sec. 3.3).

    Args:
        real: N.
        judged: M.
        neighbours: k.
    """
    missed = 1.0
    for index in range(1, neighbours + 1):
        missed *= (real - index) / (real + judged - index)
    return 1.0 - missed


def class_margins(
    features_MD: Tensor, labels_M: Tensor, real_ND: Tensor, real_labels_N: Tensor
) -> Tensor:
    """Margin (M,) of each image, see `Diversity.class_margin`.

    Args:
        features_MD: Of the images judged.
        labels_M: Their classes.
        real_ND: Of real images.
        real_labels_N: Their classes, at least two.
    """
    classes = int(real_labels_N.max()) + 1
    real_ND, features_MD = real_ND.double(), features_MD.double()
    means_YD = torch.stack(
        [real_ND[real_labels_N == label].mean(dim=0) for label in range(classes)]
    )
    distance_MY = torch.cdist(features_MD, means_YD)
    own_M1 = labels_M.unsqueeze(1)
    own_M = distance_MY.gather(1, own_M1).squeeze(1)
    nearest_M = distance_MY.scatter(1, own_M1, torch.inf).min(dim=1).values
    return (nearest_M - own_M) / torch.pdist(means_YD).mean()


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())
