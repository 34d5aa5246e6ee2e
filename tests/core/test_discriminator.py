import torch
from torch import nn

from condense_core.discriminator import FeatureDiscriminator, ImageDiscriminator
from condense_core.losses.adversarial import discriminator_loss
from condense_core.seeding import seeded_initialisation


def build():
    with seeded_initialisation(0, "test"):
        return FeatureDiscriminator(feature_dim=4, condition_dim=3, num_classes=5)


def test_one_logit_each_from_feature_and_condition(generator):
    discriminator = build()
    features = torch.randn(6, 4, generator=generator)
    conditions = torch.randn(6, 3, generator=generator)
    logits = discriminator(features, conditions)
    assert logits.shape == (6,)
    torch.testing.assert_close(
        logits[2:3], discriminator(features[2:3], conditions[2:3])
    )
    assert not torch.isclose(logits, discriminator(features.flip(0), conditions)).all()
    assert not torch.isclose(logits, discriminator(features, conditions.flip(0))).all()


def test_it_is_an_mlp_that_leaves_the_sigmoid_to_the_loss():
    layers = [type(layer) for layer in build().mlp]
    assert layers == [nn.Linear, nn.LeakyReLU] * 2 + [nn.Linear]


def test_classifier_head_names_classes_from_features_alone(generator):
    assert build().classifier(torch.randn(6, 4, generator=generator)).shape == (6, 5)


def test_it_learns_to_tell_features_of_the_wrong_class(generator):
    # The same features with swapped conditions: only their pairing tells them apart.
    discriminator = build()
    features = torch.eye(4)[:2].repeat(8, 1)
    conditions = torch.eye(3)[:2].repeat(8, 1)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=0.02)

    def loss():
        return discriminator_loss(
            discriminator(features, conditions),
            discriminator(features, conditions.roll(1, dims=0)),
        )

    for _ in range(60):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
    assert loss().item() < 0.3


def test_image_discriminator_reads_image_and_condition(generator):
    discriminator = ImageDiscriminator.build(
        image_shape=(1, 8, 8), num_classes=3, condition_dim=2, width=4, seed=0
    )
    images = torch.randn(5, 1, 8, 8, generator=generator)
    conditions = torch.randn(5, 2, generator=generator)
    logits = discriminator(images, conditions)
    assert logits.shape == (5,)
    assert not torch.isclose(logits, discriminator(images.flip(0), conditions)).all()
    assert not torch.isclose(logits, discriminator(images, conditions.flip(0))).all()


def test_its_classifier_reads_features_of_another_size_than_its_own(generator):
    discriminator = ImageDiscriminator.build(
        image_shape=(1, 8, 8),
        num_classes=3,
        condition_dim=2,
        width=4,
        seed=0,
        classified_dim=7,
    )
    features = torch.randn(5, 7, generator=generator)
    assert discriminator.classifier(features).shape == (5, 3)
