"""Membership inference: can one tell which images an artefact was condensed from?

Each attack gives every image a score, higher for "was condensed from". Scores of
*members* (images of the training split) are compared with those of *non-members* (the
test split), as many of each class on both sides, so that easy and hard classes cannot
pass for membership. The attacks are simple on purpose: they find an artefact that
copies its data, and nothing follows from their failure.

Shape legend: N images of both sides, S synthetic set, D features, M scores of
members, L scores of non-members, Y classes, C H W image.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from condense_core.artefact import CondensedDataset
from condense_core.compute.devices import resolve_device
from condense_core.data import ImageData, valid_text
from condense_core.errors import ConfigError, DataError, RunError
from condense_core.networks import FeatureNetwork, build_network
from condense_core.roc import auc_interval, roc_auc, tpr_at_one_percent_fpr
from condense_core.seeding import derive_seed, make_generator
from condense_core.training import (
    planned_steps,
    resolve_recipe,
    train_network,
    unit,
)
from condense_core.versions import library_versions

RECIPE = "paper-300"
WIDTH = 32  # of both networks, the random one and the trained one
NO_PROOF = (
    "A low AUC is no proof of privacy: it says that these simple attacks fail, not "
    "that all do."
)
_BATCH = 256  # images generated or looked at by a network together


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """How well one attack tells members from non-members.

    Attributes:
        name: ``pixel distance``, ``feature distance`` or ``loss``.
        auc: Chance that a member scores above a non-member; 0.5 is guessing.
        auc_low: Lower end of a 95 % bootstrap interval over images.
        auc_high: Its upper end.
        tpr_at_1_percent_fpr: Largest share of members found while at most one
            non-member in a hundred is taken for one; 0.01 is guessing. With fewer than
            100 non-members none may be.
    """

    name: str
    auc: float
    auc_low: float
    auc_high: float
    tpr_at_1_percent_fpr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What the attacks found, and everything needed to compare it.

    Attributes:
        attacks: One result an attack.
        dataset: Name of the members' data set.
        members: Images of each side: as many non-members.
        members_match: Whether the members given are the very images the artefact was
            condensed from, by fingerprint; None if it does not say.
        fixed_images: Synthetic images of the fixed set.
        fresh_images: Synthetic images of fresh codes; 0 in the pixel format.
        recipe: Of the network whose loss is used.
        width: Its width, and that of the random network.
        steps: Its optimiser steps.
        seed: Of everything drawn.
        seconds: Wall time.
        device: Where the networks ran.
        versions: Of python, torch, gencondense and the platform.
    """

    attacks: tuple[AttackResult, ...]
    dataset: str
    members: int
    members_match: bool | None
    fixed_images: int
    fresh_images: int
    recipe: str
    width: int
    steps: int
    seed: int
    seconds: float
    device: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """A dictionary that `json.dumps` takes as is."""
        return asdict(self) | {"attacks": [asdict(attack) for attack in self.attacks]}

    def table(self) -> str:
        """The attacks as aligned plain text, without a final newline."""
        lines = [f"{'attack':<16}  {'AUC':<5}  {'95 % interval':<14}  TPR at 1 % FPR"]
        for attack in self.attacks:
            lines.append(
                f"{attack.name:<16}  {attack.auc:.3f}  {attack.auc_low:.3f} to "
                f"{attack.auc_high:.3f}  {100 * attack.tpr_at_1_percent_fpr:>12.1f} %"
            )
        return "\n".join(lines)

    def warning(self) -> str | None:
        """A line to show when the members are not what was condensed, else None."""
        if self.members_match:
            return None
        if self.members_match is None:
            return (
                "the artefact does not say which images it was condensed from: if not "
                f"from these of {self.dataset}, the numbers mean nothing"
            )
        return (
            f"the artefact was not condensed from these images of {self.dataset} (the "
            "fingerprint differs): the numbers mean nothing"
        )


def audit(
    condensed: CondensedDataset,
    members: ImageData,
    non_members: ImageData,
    *,
    limit: int = 2000,
    seed: int = 0,
    device: str | torch.device = "auto",
    fresh_per_class: int = 100,
    max_steps: int = 300,
) -> AuditReport:
    """Attack an artefact: are its training images recognisable?

    Three scores: minus the distance to the nearest synthetic image of the same class,
    in pixels and in the features of a fixed, untrained ConvNet; and minus the cross
    entropy of a ConvNet trained on the fixed set. The nearest image is looked for in
    the fixed set and, where the format has codes, in fresh images as well.

    The answer means something only if the artefact was condensed from ``members`` and
    ``non_members`` come from the same distribution but were not used. The interval
    covers the choice of images, not that of networks.

    Args:
        condensed: The artefact.
        members: Images it was condensed from.
        non_members: Images it was not condensed from, with the same classes.
        limit: Largest number of images of each side, at least one a class.
        seed: Of the images drawn, both networks, fresh codes and the bootstrap.
        device: ``"auto"`` or a torch device.
        fresh_per_class: Fresh images of each class; not used by the pixel format.
        max_steps: Cap on the optimiser steps of the trained network.

    Returns:
        The report.

    Raises:
        ConfigError: If a number is out of range or the device unknown.
        DataError: If the images do not fit the artefact, or no class has images on
            both sides.
        RunError: If the device is absent, or the scores are not finite.
    """
    start = time.perf_counter()
    for key, value, least in (
        ("limit", limit, condensed.spec.num_classes),  # one image per class
        ("fresh_per_class", fresh_per_class, 0),
        ("max_steps", max_steps, 1),
    ):
        if value < least:
            raise ConfigError(f"{key} is {value}: give at least {least}")
    device = resolve_device(device)
    for side, data in (("members", members), ("non-members", non_members)):
        _check_fit(condensed, data, side)
    per_class_Y = torch.minimum(members.counts.cpu(), non_members.counts.cpu())
    per_class_Y = per_class_Y.clamp(max=limit // members.num_classes)
    count = int(per_class_Y.sum())
    if count == 0:
        raise DataError(
            f"no class has images among both members ({members.name}) and non-members "
            f"({non_members.name}): give both sides images of the same classes"
        )
    drawn = [
        data.subset(_draw(data, per_class_Y, seed, side)).to(device)
        for side, data in (("members", members), ("non-members", non_members))
    ]
    images_NCHW = torch.cat([data.images for data in drawn])
    labels_N = torch.cat([data.labels for data in drawn])

    fixed = tuple(part.to(device) for part in condensed.images())
    fresh = tuple(part.to(device) for part in _fresh(condensed, fresh_per_class, seed))
    synthetic = torch.cat([fixed[0], fresh[0]]), torch.cat([fixed[1], fresh[1]])
    recipe = resolve_recipe(RECIPE)
    trained = _network(condensed, seed, "loss").to(device)
    train_network(
        trained,
        *fixed,
        recipe=recipe,
        statistics=condensed.statistics,
        seed=derive_seed(seed, "audit", "loss"),
        max_steps=max_steps,
    )
    untrained = _network(condensed, seed, "features").to(device)
    features_ND, _ = _outputs(condensed, untrained, images_NCHW)
    features_SD, _ = _outputs(condensed, untrained, synthetic[0])
    _, logits_NY = _outputs(condensed, trained, images_NCHW)
    scores = {
        "pixel distance": _nearness(images_NCHW, labels_N, *synthetic),
        "feature distance": _nearness(features_ND, labels_N, features_SD, synthetic[1]),
        "loss": -F.cross_entropy(logits_NY, labels_N, reduction="none"),
    }
    results = tuple(
        _result(name, *scores_N.cpu().split(count), seed=seed)
        for name, scores_N in scores.items()
    )

    known = condensed.metadata.get("data")
    known = known.get("fingerprint") if isinstance(known, dict) else None
    return AuditReport(
        attacks=results,
        dataset=members.name,
        members=count,
        members_match=None if known is None else known == members.fingerprint(),
        fixed_images=len(fixed[0]),
        fresh_images=len(fresh[0]),
        recipe=recipe.name,
        width=WIDTH,
        steps=planned_steps(len(fixed[0]), recipe, max_steps),
        seed=seed,
        seconds=time.perf_counter() - start,
        device=str(device),
        versions=library_versions(),
    )


def _result(
    name: str, members_M: Tensor, non_members_L: Tensor, *, seed: int
) -> AttackResult:
    if not bool(torch.cat([members_M, non_members_L]).isfinite().all()):
        raise RunError(
            f"scores of attack '{name}' are not finite, its network diverged: use "
            f"another seed than {seed}"
        )
    low, high = auc_interval(
        members_M, non_members_L, generator=make_generator(seed, "audit", "bootstrap")
    )
    return AttackResult(
        name=name,
        auc=roc_auc(members_M, non_members_L),
        auc_low=low,
        auc_high=high,
        tpr_at_1_percent_fpr=tpr_at_one_percent_fpr(members_M, non_members_L),
    )


def _check_fit(condensed: CondensedDataset, data: ImageData, side: str) -> None:
    """Raise `DataError` unless the images are of the artefact's shape and classes."""
    if data.image_shape != condensed.image_shape:
        raise DataError(
            f"{side} of {data.name} have shape {data.image_shape}, the artefact's "
            f"images {condensed.image_shape}: use the data set that was condensed"
        )
    names = tuple(map(valid_text, data.classes))
    if names == condensed.classes:
        return
    if len(names) != len(condensed.classes):
        raise DataError(
            f"{side} of {data.name} have {len(names)} classes, the artefact "
            f"{len(condensed.classes)}: use the data set that was condensed"
        )
    pairs = enumerate(zip(names, condensed.classes, strict=True))
    label, (theirs, ours) = next(p for p in pairs if p[1][0] != p[1][1])
    raise DataError(
        f"class {label} is {theirs!r} among {side} of {data.name}, {ours!r} in the "
        "artefact: use the data set that was condensed"
    )


def _draw(data: ImageData, per_class_Y: Tensor, seed: int, side: str) -> Tensor:
    """Positions of random images, as many of each class as asked for, class-ordered."""
    labels, chosen = data.labels.cpu(), []
    for label, count in enumerate(per_class_Y.tolist()):
        own = (labels == label).nonzero().squeeze(1)
        generator = make_generator(seed, "audit", side, label)
        chosen.append(own[torch.randperm(len(own), generator=generator)[:count]])
    return torch.cat(chosen)


def _fresh(
    condensed: CondensedDataset, per_class: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Images (S, C, H, W) of fresh codes and their labels; none without codes."""
    if condensed.spec.kind != "generator" or per_class == 0:
        return torch.empty(0, *condensed.image_shape), torch.empty(0, dtype=torch.int64)
    wanted = torch.arange(condensed.spec.num_classes).repeat_interleave(per_class)
    rng = make_generator(seed, "audit", "fresh")
    parts = [
        condensed.sample(len(part), classes=part.tolist(), fresh=True, generator=rng)
        for part in wanted.split(_BATCH)
    ]
    return torch.cat([images for images, _ in parts]), torch.cat(
        [labels for _, labels in parts]
    )


def _network(condensed: CondensedDataset, seed: int, purpose: str) -> FeatureNetwork:
    return build_network(
        "convnet",
        image_shape=condensed.image_shape,
        num_classes=condensed.spec.num_classes,
        width=WIDTH,
        seed=derive_seed(seed, "audit", purpose),
    )


@torch.inference_mode()
def _outputs(
    condensed: CondensedDataset, network: FeatureNetwork, images: Tensor
) -> tuple[Tensor, Tensor]:
    """The last block's features (N, D) and logits (N, Y) of images not normalised."""
    network.eval()
    features, logits = [], []
    for batch in images.split(_BATCH):
        last = network.layer_features(condensed.statistics.normalise(unit(batch)))[-1]
        features.append(last.flatten(1))
        logits.append(network.classify(last))
    return torch.cat(features), torch.cat(logits)


def _nearness(
    points_N: Tensor, labels_N: Tensor, synthetic_S: Tensor, labels_S: Tensor
) -> Tensor:
    """Minus the Euclidean distance (N,) to the nearest synthetic one of its class."""
    points_ND, synthetic_SD = unit(points_N).flatten(1), synthetic_S.flatten(1)
    nearest_N = torch.empty(len(points_ND), device=points_ND.device)
    for label in labels_N.unique().tolist():
        own_N = labels_N == label
        # Not by a matrix product: it cancels where a copy is, and copies are the point.
        distances = torch.cdist(
            points_ND[own_N],
            synthetic_SD[labels_S == label],
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        nearest_N[own_N] = distances.amin(1)
    return -nearest_N
