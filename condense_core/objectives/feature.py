"""The overall condensation loss L_con = L_GAN + L_f + L_intra + L_inter (sec. 3.4).

Each term is computed only if its weight is above zero. Features of real images never
carry a gradient; features of synthetic images carry it to codebook and generator.

Shape legend: Y classes of this step, n association images of each class, K codes of
this step, D feature, E class embedding, C H W image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from condense_core.augment import AugmentParameters, SiameseAugment
from condense_core.compute.distributed import ALONE, Ranks
from condense_core.compute.mode import full_precision
from condense_core.compute.parts import Part
from condense_core.config import LOSS_TERMS, LossConfig
from condense_core.data import PixelStatistics
from condense_core.data.class_sampler import ClassSampler
from condense_core.discriminator import Discriminator, ImageDiscriminator
from condense_core.errors import ConfigError
from condense_core.losses import adversarial
from condense_core.losses.classification import classification_loss
from condense_core.losses.gradient_matching import (
    class_gradients,
    gradient_matching_loss,
)
from condense_core.losses.inter_class import inter_class_loss
from condense_core.losses.intra_class import intra_class_loss
from condense_core.losses.matching import matching_loss
from condense_core.networks import FeatureNetwork

Terms = dict[str, Tensor]

PHI_TERMS = tuple(n for n in LOSS_TERMS if n not in ("unrolled", "trajectory"))


@dataclass(frozen=True, slots=True)
class Association:
    """Real images that synthetic ones are matched to, seen through the current phi.

    If several processes share a step, each holds the part of its own classes.

    Attributes:
        class_ids_Y: The classes of this step, or this process's part of them.
        part: Which part that is.
        step_ids: All classes of the step.
        step_means: (all classes of the step, D) mean pooled feature of each.
        augmentation: Parameters shared with the synthetic images (siamese).
        images: (Y * n, C, H, W) normalised and augmented.
        layer_means: For each layer of phi, the class means (Y, ...).
        features_YnD: Pooled last-layer features.
        soft_labels: (Y, all classes) mean label of the teacher, or None.
        gradients: For each weight of phi, the gradients (Y, O, I) of the classes, or
            None if gradients are not matched.
    """

    class_ids_Y: Tensor
    part: Part
    step_ids: Tensor
    step_means: Tensor
    augmentation: AugmentParameters
    images: Tensor
    layer_means: list[Tensor]
    features_YnD: Tensor
    soft_labels: Tensor | None
    gradients: list[Tensor] | None

    @property
    def class_means_YD(self) -> Tensor:
        """Mean pooled feature of each class."""
        return self.features_YnD.mean(dim=1)


@dataclass(frozen=True, slots=True)
class SyntheticFeatures:
    """Synthetic images of a step, seen through the current phi.

    Attributes:
        pooled: (Y * K, D) pooled last-layer features.
        judged: Input of D: ``pooled`` or, in pixel space, the augmented images.
    """

    pooled: Tensor
    judged: Tensor


@torch.no_grad()
def sample_association(
    sampler: ClassSampler,
    class_ids_Y: Tensor,
    size: int,
    *,
    network: FeatureNetwork,
    statistics: PixelStatistics,
    augment: SiameseAugment,
    teacher: FeatureNetwork | None,
    temperature: float,
    with_gradients: bool,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
) -> Association:
    """Sample ``size`` real images of each class and pass them through phi.

    Args:
        sampler: The real images.
        class_ids_Y: Classes to sample.
        size: n.
        network: phi.
        statistics: Normalisation.
        augment: Siamese augmentation; drawn here, applied to both sides.
        teacher: Source of soft labels, or None for hard labels.
        temperature: Softens the teacher's labels.
        with_gradients: Whether the gradients of phi are wanted too.
        generator: Of every draw.
        ranks: Processes that share the classes.
    """
    part = ranks.part(len(class_ids_Y))
    images = sampler.sample(size, generator, class_ids_Y, part=part).flatten(0, 1)
    images = statistics.normalise(images)
    soft_labels = None
    if teacher is not None:
        probabilities = F.softmax(teacher(images) / temperature, dim=1)
        soft_labels = probabilities.unflatten(0, (-1, size)).mean(dim=1)
    augmentation = augment.draw(1, generator, images.device)
    images = augment.apply(images, augmentation)
    layers = [full_precision(layer) for layer in network.layer_features(images)]
    features_YnD = network.embed(layers[-1]).unflatten(0, (-1, size))
    own_ids_Y = class_ids_Y[part.rows]
    gradients = class_gradients(network, images, own_ids_Y) if with_gradients else None
    return Association(
        class_ids_Y=own_ids_Y,
        part=part,
        step_ids=class_ids_Y,
        step_means=ranks.gather(features_YnD.mean(dim=1), part),
        augmentation=augmentation,
        images=images,
        layer_means=[layer.unflatten(0, (-1, size)).mean(dim=1) for layer in layers],
        features_YnD=features_YnD,
        soft_labels=soft_labels,
        gradients=gradients,
    )


def feature_terms(
    images_YKCHW: Tensor,
    association: Association,
    *,
    network: FeatureNetwork,
    augment: SiameseAugment,
    discriminator: Discriminator,
    conditions_YE: Tensor,
    config: LossConfig,
    ranks: Ranks = ALONE,
) -> tuple[Terms, SyntheticFeatures | None]:
    """The terms that look through phi: the paper's five and gradient matching.

    Args:
        images_YKCHW: Normalised, not yet augmented.
        association: Real counterpart for the same classes.
        network: phi.
        augment: Applies the association's augmentation.
        discriminator: D of Eq. 1, on features or (``adversarial_space: pixel``) images.
        conditions_YE: Class embeddings c(y) of the classes of this step.
        config: Weights and shapes of the terms.
        ranks: Processes that share the classes.

    Returns:
        Unweighted terms by name, of which each process has an addend; and the features
        they were computed from, None if no term looks through phi.

    Raises:
        ConfigError: Class embeddings serve as centres of Eq. 3 but are of another size
            than the features, or layer weights are for another number of layers.
    """
    codes = images_YKCHW.shape[1]
    images = images_YKCHW.flatten(0, 1)
    if not any(getattr(config, term) for term in PHI_TERMS):
        return {}, None
    images = augment.apply(images, association.augmentation)
    layers = [full_precision(layer) for layer in network.layer_features(images)]
    features = network.embed(layers[-1])
    features_YKD = features.unflatten(0, (-1, codes))
    conditions = conditions_YE.repeat_interleave(codes, dim=0)
    judged = images if isinstance(discriminator, ImageDiscriminator) else features

    terms: Terms = {}
    if config.adversarial:
        terms["adversarial"] = adversarial.generator_loss(
            discriminator(judged, conditions), saturating=config.saturating
        )
    if config.classification:
        if config.classifier == "auxiliary":
            logits = discriminator.classifier(features)
        else:
            logits = network.classify(layers[-1])
        hard_or_soft = (
            association.class_ids_Y
            if association.soft_labels is None
            else association.soft_labels
        )
        terms["classification"] = classification_loss(
            logits, hard_or_soft.repeat_interleave(codes, dim=0)
        )
    if config.matching:
        terms["matching"] = matching_loss(
            [layer.unflatten(0, (-1, codes)) for layer in layers],
            association.layer_means,
            mode=config.matching_mode,
            layer_weights=config.layer_weights,
        )
    if config.intra:
        centres = {
            "online": association.class_means_YD,
            "class_embedding": conditions_YE,
            "none": None,
        }[config.intra_centre]
        if centres is not None and centres.shape[1] != features.shape[1]:
            raise ConfigError(
                f"loss.intra_centre=class_embedding has {centres.shape[1]} entries but "
                f"the network's feature {features.shape[1]}: set teacher.width to the "
                "latter, or loss.intra_centre=online"
            )
        terms["intra"] = intra_class_loss(features_YKD, centres, tau=config.tau)
    if config.inter:
        # Between classes: every process computes the whole from all means.
        real = association.step_means if config.margin_relative else None
        means_YD = ranks.gather(features_YKD.mean(dim=1), association.part)
        whole = inter_class_loss(
            means_YD.unsqueeze(1), margin=config.margin, real_means_YD=real
        )
        terms["inter"] = whole / (ranks.world * association.part.share)
    if config.gradient:
        assert association.gradients is not None
        terms["gradient"] = gradient_matching_loss(
            class_gradients(
                network, images, association.class_ids_Y, create_graph=True
            ),
            association.gradients,
        )
    share = association.part.share
    return (
        {name: term * share for name, term in terms.items()},
        SyntheticFeatures(pooled=features, judged=judged),
    )


def discriminator_loss(
    synthetic: SyntheticFeatures,
    association: Association,
    *,
    discriminator: Discriminator,
    conditions_YE: Tensor,
    config: LossConfig,
) -> Tensor:
    """What D minimises: Eq. 1, plus L_c of its classifier head on real and synthetic.

    An addend of it where several processes share the classes.

    Args:
        synthetic: The synthetic side; no gradient goes back to it.
        association: The real side.
        discriminator: D.
        conditions_YE: c(y) of the classes of this step.
        config: Which head serves L_c.
    """
    judged, features = synthetic.judged.detach(), synthetic.pooled.detach()
    classes, real_each = association.features_YnD.shape[:2]
    each = len(judged) // classes
    real = association.features_YnD.flatten(0, 1)
    in_pixels = isinstance(discriminator, ImageDiscriminator)
    real_logits = discriminator(
        association.images if in_pixels else real,
        conditions_YE.repeat_interleave(real_each, dim=0),
    )
    synthetic_logits = discriminator(
        judged, conditions_YE.repeat_interleave(each, dim=0)
    )
    loss = adversarial.discriminator_loss(real_logits, synthetic_logits)
    if config.classifier == "auxiliary":
        classifier, labels = discriminator.classifier, association.class_ids_Y
        loss = loss + classification_loss(
            classifier(real), labels.repeat_interleave(real_each)
        )
        loss = loss + classification_loss(
            classifier(features), labels.repeat_interleave(each)
        )
    return loss * association.part.share


def weighted_sum(terms: Terms, config: LossConfig) -> Tensor:
    """L_con from its terms."""
    total = sum(getattr(config, name) * term for name, term in terms.items())
    assert isinstance(total, Tensor)
    return total


def gradient_norms(
    terms: Terms, images: Tensor, config: LossConfig, ranks: Ranks = ALONE
) -> Terms:
    """Norm of each weighted term's gradient at the images.

    A term that is dead or drowns the others is seen here and not in its value.
    """
    norms: Terms = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(
            term, images, retain_graph=True, allow_unused=True
        )
        norm = images.new_zeros(()) if gradient is None else ranks.norm(gradient)
        norms[name] = getattr(config, name) * norm
    return norms
