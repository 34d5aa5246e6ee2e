import pytest
import torch

from condense_core.losses.paired_matching import paired_matching_loss
from tests import reference


def draw(generator, *, pairs=4, layers=((4, 2, 2), (3,))):
    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [[random(pairs, *layer) for layer in layers] for _ in range(2)]


@pytest.mark.parametrize("pairs", [1, 4])
def test_loss_matches_the_reference(pairs, generator, device):
    synthetic, real = draw(generator, pairs=pairs)
    loss = paired_matching_loss(
        [layer.to(device) for layer in synthetic], [layer.to(device) for layer in real]
    )
    assert loss.item() == pytest.approx(reference.paired_matching(synthetic, real))


def test_equal_features_cost_nothing(generator):
    _, real = draw(generator)
    assert paired_matching_loss(real, real).item() == 0


def test_the_mean_costs_one_a_layer(generator):
    _, real = draw(generator)
    means = [torch.full_like(layer, layer.mean().item()) for layer in real]
    assert paired_matching_loss(means, real).item() == pytest.approx(2.0)


def test_scale_and_order_do_not_matter(generator):
    synthetic, real = draw(generator)
    loss = paired_matching_loss(synthetic, real)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        paired_matching_loss(
            [7 * layer[order] for layer in synthetic],
            [7 * layer[order] for layer in real],
        ),
        loss,
    )


def test_another_image_of_the_class_is_not_its_own(generator):
    _, real = draw(generator)
    others = [layer.roll(1, dims=0) for layer in real]
    assert paired_matching_loss(others, real).item() > 1.0


def test_gradient_reaches_synthetic_features_alone(generator):
    synthetic, real = draw(generator)
    synthetic = [layer.requires_grad_() for layer in synthetic]
    paired_matching_loss(synthetic, real).backward()
    assert all(layer.grad.abs().sum() > 0 for layer in synthetic)


def test_a_dead_layer_is_no_division_by_zero():
    dead = [torch.zeros(3, 2)]
    assert paired_matching_loss(dead, dead).item() == 0
