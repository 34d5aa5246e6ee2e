import pytest
import torch
from torch.nn import functional as F

from condense_core.networks import build_network
from condense_core.objectives.window import OUTER_LOSSES, brier_score, train_through


@pytest.fixture
def network():
    return build_network(
        "convnet", image_shape=(1, 8, 8), num_classes=3, width=4, seed=1
    ).double()


def trained(network, steps, real, rate=0.1, outer_loss=F.cross_entropy):
    weights = [weight.detach() for weight in network.parameters()]
    momenta = [torch.zeros_like(weight) for weight in weights]
    labels = torch.arange(3)
    return train_through(
        network,
        [*weights, *momenta],
        steps,
        labels,
        real,
        labels,
        learning_rate=rate,
        outer_loss=outer_loss,
    )


@pytest.fixture
def images(generator):
    """Synthetic images of two steps, and real ones."""
    return torch.randn(3, 3, 1, 8, 8, generator=generator).double().unbind()


@pytest.mark.parametrize("outer_loss", OUTER_LOSSES.values(), ids=OUTER_LOSSES)
def test_gradients_at_every_step_are_those_of_finite_differences(
    outer_loss, network, images, generator
):
    *steps, real = images
    _, slopes, _ = trained(network, steps, real, outer_loss=outer_loss)
    for index, slope in enumerate(slopes):
        direction = torch.randn(slope.shape, generator=generator).double()
        ends = []
        for sign in (1, -1):
            moved = list(steps)
            moved[index] = steps[index] + sign * 1e-5 * direction
            ends.append(trained(network, moved, real, outer_loss=outer_loss)[0])
        expected = (ends[0] - ends[1]) / 2e-5
        assert expected.abs() > 1e-7
        torch.testing.assert_close(
            (slope * direction).sum(), expected, rtol=1e-4, atol=1e-9
        )


def test_a_student_that_does_not_move_has_its_own_loss_and_learns_nothing(
    network, images
):
    *steps, real = images
    loss, slopes, after = trained(network, steps, real, rate=0.0)
    torch.testing.assert_close(
        loss, F.cross_entropy(network(real), torch.arange(3)).detach()
    )
    assert not any(slope.any() for slope in slopes)
    weights = list(network.parameters())
    for value, weight in zip(after[: len(weights)], weights, strict=True):
        torch.testing.assert_close(value, weight.detach())
    assert all(value.any() for value in after[len(weights) :])  # momenta gather


def test_neither_network_nor_images_are_touched(network, images):
    before = [weight.clone() for weight in network.parameters()]
    *steps, real = images
    given = [values.clone() for values in images]
    trained(network, steps, real)
    assert all(map(torch.equal, network.parameters(), before))
    assert all(weight.grad is None for weight in network.parameters())
    assert all(map(torch.equal, images, given))
    assert not any(values.requires_grad for values in images)


def test_brier_score_is_bounded_and_zero_when_certain_and_right():
    certain = torch.tensor([[50.0, 0.0, 0.0]])
    assert brier_score(certain, torch.tensor([0])).item() == pytest.approx(0.0)
    assert brier_score(certain, torch.tensor([1])).item() == pytest.approx(2.0)
    # Undecided between three: (1 - 1/3)^2 + 2 (1/3)^2 = 2/3.
    assert brier_score(torch.zeros(4, 3), torch.zeros(4).long()).item() == (
        pytest.approx(2 / 3)
    )
