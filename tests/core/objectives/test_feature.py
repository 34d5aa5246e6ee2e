import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from condense_core.augment import SiameseAugment
from condense_core.config import LOSS_TERMS, LossConfig
from condense_core.data import as_image_data
from condense_core.data.class_sampler import ClassSampler
from condense_core.discriminator import FeatureDiscriminator, ImageDiscriminator
from condense_core.errors import ConfigError
from condense_core.losses.adversarial import discriminator_loss, generator_loss
from condense_core.losses.classification import classification_loss
from condense_core.losses.gradient_matching import (
    class_gradients,
    gradient_matching_loss,
)
from condense_core.losses.inter_class import inter_class_loss
from condense_core.losses.intra_class import intra_class_loss
from condense_core.losses.matching import matching_loss
from condense_core.networks import build_network
from condense_core.objectives.feature import (
    discriminator_loss as loss_of_d,
)
from condense_core.objectives.feature import (
    feature_terms,
    gradient_norms,
    sample_association,
    weighted_sum,
)
from condense_core.seeding import seeded_initialisation

WIDTH, CONDITION, CODES, REAL = 4, 5, 2, 6
PAPER = ("adversarial", "classification", "matching", "intra", "inter")


def config(**options):
    defaults = {**dict.fromkeys(LOSS_TERMS, 0.0), **dict.fromkeys(PAPER, 1.0)}
    # A wide margin keeps the hinge of Eq. 4 open.
    return LossConfig(**{**defaults, "margin": 3.0, **options})


def only(*terms, **options):
    return config(**{name: float(name in terms) for name in PAPER}, **options)


def network(seed=0):
    return build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=3, width=WIDTH, seed=seed
    )


class Step:
    """One step's ingredients for classes 2 and 0 of three."""

    def __init__(self, tiny_images, device, *, pixel=False, augment="none", soft=False):
        data = as_image_data(tiny_images)
        self.statistics = data.statistics()
        self.sampler = ClassSampler(data, device)
        self.network = network().to(device)
        self.augment = SiameseAugment.from_text(augment)
        self.class_ids = torch.tensor([2, 0], device=device)
        draw = torch.Generator().manual_seed(1)
        self.conditions = torch.randn(2, CONDITION, generator=draw).to(device)
        self.images = torch.randn(2, CODES, 1, 8, 8, generator=draw).to(device)
        self.images.requires_grad_()
        if pixel:
            self.discriminator = ImageDiscriminator.build(
                image_shape=(1, 8, 8),
                num_classes=3,
                condition_dim=CONDITION,
                width=WIDTH,
                seed=0,
            )
        else:
            with seeded_initialisation(0, "test"):
                self.discriminator = FeatureDiscriminator(
                    feature_dim=WIDTH, condition_dim=CONDITION, num_classes=3
                )
        self.discriminator.to(device)
        self.teacher = network(seed=7).to(device) if soft else None
        self.association = self.associate()

    def associate(self, seed=0, with_gradients=False):
        return sample_association(
            self.sampler,
            self.class_ids,
            REAL,
            network=self.network,
            statistics=self.statistics,
            augment=self.augment,
            teacher=self.teacher,
            temperature=2.0,
            with_gradients=with_gradients,
            generator=torch.Generator().manual_seed(seed),
        )

    def terms(self, loss):
        terms, features = self.seen(loss)
        return terms, features.judged, features.pooled

    def seen(self, loss):
        return feature_terms(
            self.images,
            self.association,
            network=self.network,
            augment=self.augment,
            discriminator=self.discriminator,
            conditions_YE=self.conditions,
            config=loss,
        )

    def judge(self, loss):
        return loss_of_d(
            self.seen(loss)[1],
            self.association,
            discriminator=self.discriminator,
            conditions_YE=self.conditions,
            config=loss,
        )


@pytest.fixture
def step(tiny_images, device):
    return Step(tiny_images, device)


def close(value, expected):
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-3)


def test_association_is_the_classes_of_the_step_seen_through_phi(step):
    association = step.association
    assert association.images.shape == (2 * REAL, 1, 8, 8)
    layers = step.network.layer_features(association.images)
    for mean, layer in zip(association.layer_means, layers, strict=True):
        close(mean[0], layer[:REAL].mean(dim=0))
        close(mean[1], layer[REAL:].mean(dim=0))
    pooled = layers[-1].mean(dim=(2, 3))
    close(association.features_YnD.flatten(0, 1), pooled)
    close(association.class_means_YD[1], pooled[REAL:].mean(dim=0))
    # Class 2 is bright in columns 4 and 5, class 0 in columns 0 and 1.
    columns = association.images.unflatten(0, (2, REAL)).mean(dim=(1, 2, 3))
    assert columns.argmax(dim=1)[0] in (4, 5)
    assert columns.argmax(dim=1)[1] in (0, 1)


def test_real_images_carry_no_gradient(tiny_images, device):
    association = Step(tiny_images, device, soft=True).association
    values = [association.images, association.features_YnD, association.soft_labels]
    for value in [*values, *association.layer_means]:
        assert not value.requires_grad


def test_real_and_synthetic_images_share_the_augmentation(tiny_images, device):
    step = Step(tiny_images, device, augment="color")
    plain = Step(tiny_images, device).association.images
    drawn = step.association.augmentation
    close(step.association.images, step.augment.apply(plain, drawn))
    assert not torch.allclose(step.association.images, plain)
    _, _, features = step.terms(config())
    augmented = step.augment.apply(step.images.flatten(0, 1), drawn)
    layers = step.network.layer_features(augmented)
    close(features, step.network.embed(layers[-1]))


def test_terms_are_the_losses_of_the_features(step):
    terms, judged, features = step.terms(config(tau=0.5))
    images = step.images.flatten(0, 1)
    layers = step.network.layer_features(images)
    pooled = layers[-1].mean(dim=(2, 3))
    close(features, pooled)
    close(judged, pooled)
    grouped, association = pooled.unflatten(0, (2, CODES)), step.association
    conditions = step.conditions[torch.tensor([0, 0, 1, 1])]
    labels = torch.tensor([2, 2, 0, 0], device=images.device)
    expected = {
        "adversarial": generator_loss(step.discriminator(pooled, conditions)),
        "classification": classification_loss(step.network(images), labels),
        "matching": matching_loss(
            [layer.unflatten(0, (2, CODES)) for layer in layers],
            association.layer_means,
        ),
        "intra": intra_class_loss(grouped, association.class_means_YD, tau=0.5),
        "inter": inter_class_loss(
            grouped, margin=3.0, real_means_YD=association.class_means_YD
        ),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert value != 0, name
        close(terms[name], value)


@pytest.mark.parametrize("name", PAPER)
def test_weight_zero_switches_a_term_off_and_only_that(name, step):
    without, _, _ = step.terms(config(**{name: 0.0}))
    assert set(without) == set(PAPER) - {name}
    alone, _, _ = step.terms(only(name))
    assert set(alone) == {name}


@pytest.mark.parametrize("name", PAPER)
def test_every_term_reaches_the_images(name, step):
    terms, _, _ = step.terms(only(name))
    (slope,) = torch.autograd.grad(terms[name], step.images)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("adversarial", {"saturating": False}, {"saturating": True}),
        ("matching", {"matching_mode": "class_mean"}, {"matching_mode": "per_sample"}),
        ("matching", {}, {"layer_weights": (1.0, 0.0, 2.0)}),
        ("intra", {"intra_centre": "online"}, {"intra_centre": "none"}),
        ("intra", {"tau": 0.1}, {"tau": 1.0}),
        ("inter", {"margin_relative": True}, {"margin_relative": False}),
        ("inter", {"margin": 3.0}, {"margin": 6.0}),
        ("classification", {"classifier": "phi"}, {"classifier": "auxiliary"}),
    ],
)
def test_options_change_their_term(name, one, other, step):
    values = [step.terms(only(name, **options))[0][name] for options in (one, other)]
    assert not torch.isclose(*values)


def test_class_embedding_serves_as_centre_if_it_has_the_size_of_a_feature(step):
    loss = only("intra", intra_centre="class_embedding")
    with pytest.raises(ConfigError, match="5 entries but the network's feature 4"):
        step.terms(loss)
    step.conditions = step.conditions[:, :WIDTH]
    terms, _, features = step.terms(loss)
    expected = intra_class_loss(features.unflatten(0, (2, CODES)), step.conditions)
    close(terms["intra"], expected)


@pytest.mark.parametrize("options", [{}, {"intra_centre": "none"}])
def test_one_class_with_one_image_has_no_relation_terms(options, tiny_images, device):
    step = Step(tiny_images, device)
    step.class_ids, step.conditions = step.class_ids[:1], step.conditions[:1]
    step.association = step.associate()
    step.images = step.images.detach()[:1, :1].requires_grad_()
    terms, _, _ = step.terms(config(**options))
    assert terms["intra"] == 0
    assert terms["inter"] == 0
    weighted_sum(terms, config()).backward()
    assert step.images.grad.isfinite().all()


def test_auxiliary_classifier_reads_features_and_learns_from_both_sides(step):
    loss = only("classification", classifier="auxiliary")
    terms, _, features = step.terms(loss)
    labels = torch.tensor([2, 2, 0, 0], device=features.device)
    head = step.discriminator.classifier
    close(terms["classification"], classification_loss(head(features), labels))

    real = step.association.features_YnD
    real_labels = torch.tensor([2] * REAL + [0] * REAL, device=features.device)
    head_loss = classification_loss(head(real.flatten(0, 1)), real_labels)
    head_loss = head_loss + classification_loss(head(features), labels)
    both = step.judge(loss)
    without = step.judge(dataclasses.replace(loss, classifier="phi"))
    close(both - without, head_loss)


class Product(nn.Module):
    """A judge that depends strongly on which feature meets which condition."""

    def forward(self, joined):
        features, conditions = joined[:, :WIDTH], joined[:, WIDTH : 2 * WIDTH]
        return 20 * (features * conditions).sum(dim=1, keepdim=True)


def test_discriminator_and_generator_see_each_image_with_its_own_class(step):
    step.discriminator.mlp = Product()
    _, judged, _ = step.terms(config())
    own = step.conditions.repeat_interleave(CODES, dim=0)
    exchanged = step.conditions.repeat(CODES, 1)
    synthetic, wrong = (step.discriminator(judged, c) for c in (own, exchanged))
    assert (generator_loss(synthetic) - generator_loss(wrong)).abs() > 0.05
    close(step.terms(config())[0]["adversarial"], generator_loss(synthetic))
    real = step.discriminator(
        step.association.features_YnD.flatten(0, 1),
        step.conditions.repeat_interleave(REAL, dim=0),
    )
    close(step.judge(config()), discriminator_loss(real, synthetic))


def test_discriminator_minimises_eq_1_on_the_features(step):
    _, judged, _ = step.terms(config())
    real = step.association.features_YnD.flatten(0, 1)
    expected = discriminator_loss(
        step.discriminator(real, step.conditions.repeat_interleave(REAL, dim=0)),
        step.discriminator(judged, step.conditions.repeat_interleave(CODES, dim=0)),
    )
    close(step.judge(config()), expected)


@pytest.mark.parametrize("pixel", [False, True])
@pytest.mark.parametrize("classifier", ["phi", "auxiliary"])
def test_discriminator_loss_trains_the_discriminator_alone(
    pixel, classifier, tiny_images, device
):
    step = Step(tiny_images, device, pixel=pixel)
    space = "pixel" if pixel else "feature"
    step.judge(config(classifier=classifier, adversarial_space=space)).backward()
    assert step.images.grad is None
    assert all(parameter.grad is None for parameter in step.network.parameters())
    head = step.discriminator.head if pixel else step.discriminator
    assert head.mlp[0].weight.grad.abs().sum() > 0
    assert (head.classifier.weight.grad is not None) == (classifier == "auxiliary")
    if pixel:
        trunk = step.discriminator.trunk.blocks[0][0].weight
        assert trunk.grad.abs().sum() > 0


def test_pixel_discriminator_judges_the_augmented_images(tiny_images, device):
    step = Step(tiny_images, device, pixel=True, augment="color")
    terms, judged, features = step.terms(only("adversarial", adversarial_space="pixel"))
    images = step.augment.apply(
        step.images.flatten(0, 1), step.association.augmentation
    )
    close(judged, images)
    assert features.shape == (2 * CODES, WIDTH)
    conditions = step.conditions.repeat_interleave(CODES, dim=0)
    close(terms["adversarial"], generator_loss(step.discriminator(images, conditions)))
    (slope,) = torch.autograd.grad(terms["adversarial"], step.images)
    assert slope.abs().sum() > 0


def test_soft_labels_are_the_teachers_mean_for_the_class(tiny_images, device):
    step = Step(tiny_images, device, soft=True)
    association = step.association
    with torch.no_grad():
        logits = step.teacher(association.images) / 2.0
    expected = F.softmax(logits, dim=1).view(2, REAL, 3).mean(dim=1)
    close(association.soft_labels, expected)
    close(association.soft_labels.sum(dim=1), torch.ones(2, device=device))
    terms, _, _ = step.terms(only("classification"))
    logits = step.network(step.images.flatten(0, 1))
    soft = expected[torch.tensor([0, 0, 1, 1], device=device)]
    close(terms["classification"], classification_loss(logits, soft))
    hard = Step(tiny_images, device).terms(only("classification"))[0]
    assert not torch.isclose(terms["classification"], hard["classification"])


def test_gradients_are_matched_in_phi_on_the_augmented_images(tiny_images, device):
    step = Step(tiny_images, device, augment="color")
    assert step.association.gradients is None
    step.association = association = step.associate(with_gradients=True)
    real = class_gradients(step.network, association.images, step.class_ids)
    for layer, expected in zip(association.gradients, real, strict=True):
        close(layer, expected)
        assert not layer.requires_grad
    terms, _, _ = step.terms(only(gradient=1.0))
    assert set(terms) == {"gradient"}
    images = step.augment.apply(step.images.flatten(0, 1), association.augmentation)
    synthetic = class_gradients(step.network, images, step.class_ids)
    close(terms["gradient"], gradient_matching_loss(synthetic, real))
    (slope,) = torch.autograd.grad(terms["gradient"], step.images)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


def test_teacher_does_not_change_which_images_are_drawn(tiny_images, device):
    with_teacher = Step(tiny_images, device, soft=True, augment="color").association
    without = Step(tiny_images, device, augment="color").association
    close(with_teacher.images, without.images)
    assert without.soft_labels is None


def test_association_depends_on_its_seed(step):
    assert torch.equal(step.associate().images, step.association.images)
    assert not torch.equal(step.associate(seed=1).images, step.association.images)


def test_weighted_sum_weighs_each_term():
    values = {name: torch.tensor(10.0**i) for i, name in enumerate(PAPER)}
    weights = {name: i + 1.0 for i, name in enumerate(PAPER)}
    assert weighted_sum(values, config(**weights)) == 54321


def test_gradient_norms_are_of_the_weighted_terms_at_the_images(step):
    loss = config(adversarial=0.5, matching=3.0, intra=0.0)
    terms, _, _ = step.terms(loss)
    norms = gradient_norms(terms, step.images, loss)
    assert norms.keys() == terms.keys()
    for name, term in terms.items():
        (slope,) = torch.autograd.grad(
            getattr(loss, name) * term, step.images, retain_graph=True
        )
        close(norms[name], slope.square().sum().sqrt())
        assert norms[name] > 0
    weighted_sum(terms, loss).backward()  # the graph is still there
    assert step.images.grad.isfinite().all()


def test_gradient_norm_of_a_term_without_the_images_is_zero(step):
    weight = torch.ones((), device=step.images.device, requires_grad=True)
    norms = gradient_norms({"matching": weight * 2}, step.images, config())
    assert norms["matching"] == 0


def test_terms_of_the_generator_leave_real_features_out_of_phis_gradient(step):
    """Only synthetic images reach phi: with them constant, nothing does."""
    step.images = step.images.detach()
    for parameter in step.network.parameters():
        parameter.requires_grad_(False)
    terms, _, _ = step.terms(only("matching", "intra", "inter", "classification"))
    assert not any(term.requires_grad for term in terms.values())


def test_without_a_term_nothing_passes_through_phi(tiny_images, device, monkeypatch):
    step = Step(tiny_images, device)

    def never(_):
        pytest.fail("phi was used")

    monkeypatch.setattr(step.network, "layer_features", never)
    assert step.seen(only(unrolled=1.0)) == ({}, None)
    assert step.seen(only(classifier="auxiliary", unrolled=1.0)) == ({}, None)
    with pytest.raises(pytest.fail.Exception):
        step.terms(only("classification"))
