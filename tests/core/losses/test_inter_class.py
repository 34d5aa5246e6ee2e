import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condense_core.losses.inter_class import inter_class_loss
from tests import reference


def random(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@settings(deadline=None, derandomize=True)
@given(
    classes=st.integers(2, 5),
    images=st.integers(1, 3),
    margin=st.floats(0, 5),
    relative=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_loss_matches_the_reference(classes, images, margin, relative, seed):
    generator = torch.Generator().manual_seed(seed)
    features = random(generator, classes, images, 3)
    real = random(generator, classes, 3) if relative else None
    loss = inter_class_loss(features, margin=margin, real_means_YD=real).item()
    expected = reference.inter_class(features, margin=margin, real_means=real)
    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_pairs_beyond_the_margin_cost_nothing_and_others_what_is_missing(device):
    # Means at 0, 3 and 10 on a line: distances 3, 10 and 7.
    features = torch.tensor([[[-1.0], [1.0]], [[3.0], [3.0]], [[10.0], [10.0]]])
    features = features.to(device)
    assert inter_class_loss(features, margin=3.0).item() == 0
    assert inter_class_loss(features, margin=4.0).item() == pytest.approx(1 / 3)
    assert inter_class_loss(features, margin=8.0).item() == pytest.approx(6 / 3)


def test_relative_margin_follows_the_scale_of_the_features(generator):
    features, real = random(generator, 4, 2, 3), random(generator, 4, 3)
    loss = inter_class_loss(features, margin=1.5, real_means_YD=real)
    larger = inter_class_loss(10 * features, margin=1.5, real_means_YD=10 * real)
    assert loss > 0
    torch.testing.assert_close(larger, 10 * loss)


def test_single_class_costs_nothing_and_has_zero_gradient(generator):
    features = random(generator, 1, 3, 4).requires_grad_()
    loss = inter_class_loss(features, real_means_YD=random(generator, 1, 4))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_coinciding_classes_pay_the_margin_with_a_finite_gradient():
    features = torch.ones(3, 2, 4, requires_grad=True)
    loss = inter_class_loss(features, margin=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(2.0, abs=1e-5)
    assert torch.isfinite(features.grad).all()


def test_no_overflow_with_huge_features(generator):
    features = (random(generator, 3, 2, 4).float() * 1e15).requires_grad_()
    real = random(generator, 3, 4).float() * 1e15
    loss = inter_class_loss(features, margin=3.0, real_means_YD=real)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 0
    assert torch.isfinite(features.grad).all()


def test_a_step_against_the_gradient_moves_close_classes_apart():
    features = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]], requires_grad=True)
    inter_class_loss(features, margin=5.0).backward()
    moved = (features - 0.1 * features.grad).detach()
    assert (moved[0] - moved[1]).norm() > 1.0


def test_order_of_images_and_classes_does_not_matter(generator):
    features, real = random(generator, 3, 3, 4), random(generator, 3, 4)
    classes, images = torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        inter_class_loss(
            features[classes][:, images], margin=2.0, real_means_YD=real[classes]
        ),
        inter_class_loss(features, margin=2.0, real_means_YD=real),
    )


@pytest.mark.parametrize("relative", [True, False])
def test_gradient_is_exact(relative, generator):
    features, real = random(generator, 3, 2, 4), random(generator, 3, 4)
    assert torch.autograd.gradcheck(
        lambda x: inter_class_loss(
            x, margin=2.5, real_means_YD=real if relative else None
        ),
        (features.requires_grad_(),),
    )
