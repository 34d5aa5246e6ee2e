import math

import pytest
import torch

from condense_core.losses.intra_class import intra_class_loss
from tests import reference


def draw(generator, *, classes=2, images=3, features=4):
    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return random(classes, images, features), random(classes, features)


@pytest.mark.parametrize(("classes", "images"), [(1, 2), (1, 5), (3, 2), (4, 3)])
@pytest.mark.parametrize("tau", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("centred", [True, False])
def test_loss_matches_the_reference(classes, images, tau, centred, generator, device):
    features, centres = draw(generator, classes=classes, images=images)
    given = centres if centred else None
    loss = intra_class_loss(
        features.to(device), None if given is None else given.to(device), tau=tau
    )
    assert loss.item() == pytest.approx(reference.intra_class(features, given, tau=tau))


def test_autocast_leaves_it_in_full_precision(generator):
    features, centres = (tensor.float() for tensor in draw(generator))
    expected = intra_class_loss(features, centres)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(intra_class_loss(features, centres), expected)


def test_two_images_at_their_centre_pay_log_two():
    features, centre = torch.ones(1, 2, 3), torch.ones(1, 3)
    assert intra_class_loss(features, centre).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("images", [2, 4])
def test_orthogonal_images_without_a_centre_pay_log_of_their_negatives(images):
    features = torch.eye(images).unsqueeze(0)
    loss = intra_class_loss(features, None).item()
    assert loss == pytest.approx(math.log(images - 1), abs=1e-6)


def test_spreading_images_and_nearing_the_centre_both_help():
    centre = torch.tensor([[1.0, 0.0, 0.0]])
    near = torch.tensor([[[1.0, 0.1, 0.0], [1.0, 0.0, 0.1]]])
    apart = torch.tensor([[[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]])
    assert intra_class_loss(apart, None) < intra_class_loss(near, None)
    far = -centre
    assert intra_class_loss(near, centre) < intra_class_loss(near, far)


@pytest.mark.parametrize("centred", [True, False])
def test_one_image_per_class_costs_nothing_and_has_zero_gradient(centred, generator):
    features, centres = draw(generator, images=1)
    features.requires_grad_()
    loss = intra_class_loss(features, centres if centred else None)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_length_of_features_does_not_matter(generator):
    features, centres = draw(generator)
    lengths = torch.tensor([1e-3, 1.0, 1e3]).view(1, 3, 1)
    torch.testing.assert_close(
        intra_class_loss(features * lengths, centres * 50),
        intra_class_loss(features, centres),
    )


@pytest.mark.parametrize("tau", [0.01, 0.1])
def test_no_overflow_with_huge_features(tau, generator):
    features, centres = (value.float() * 1e15 for value in draw(generator))
    features.requires_grad_()
    loss = intra_class_loss(features, centres, tau=tau)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()


def test_order_of_images_and_classes_does_not_matter(generator):
    features, centres = draw(generator)
    classes, images = torch.tensor([1, 0]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        intra_class_loss(features[classes][:, images], centres[classes]),
        intra_class_loss(features, centres),
    )


@pytest.mark.parametrize("centred", [True, False])
def test_gradient_is_exact(centred, generator):
    features, centres = draw(generator)
    assert torch.autograd.gradcheck(
        lambda x: intra_class_loss(x, centres if centred else None, tau=0.5),
        (features.requires_grad_(),),
    )
