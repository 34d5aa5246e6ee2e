import pytest
import torch
from torch.nn import functional as F

from condense_core.losses.gradient_matching import (
    class_gradients,
    gradient_matching_loss,
)
from condense_core.networks import build_network
from tests import reference


def draw(generator, *, classes=2, layers=((3, 4), (2, 5))):
    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [
        [random(classes, *layer).requires_grad_() for layer in layers] for _ in range(2)
    ]


def network(name="convnet"):
    return build_network(
        name, image_shape=(1, 8, 8), num_classes=3, width=3, seed=0
    ).double()


def images(generator, count=4):
    return torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("classes", [1, 3])
def test_loss_matches_the_reference(classes, generator, device):
    synthetic, real = draw(generator, classes=classes)
    loss = gradient_matching_loss(
        [layer.to(device) for layer in synthetic], [layer.to(device) for layer in real]
    )
    expected = reference.gradient_matching(synthetic, real)
    assert loss.item() == pytest.approx(expected)


def test_equal_opposite_and_orthogonal_gradients_cost_zero_two_and_one():
    slopes = [torch.tensor([[[3.0, 4.0]]])]
    assert gradient_matching_loss(slopes, slopes).item() == pytest.approx(0, abs=1e-6)
    opposite, orthogonal = [-slopes[0]], [slopes[0].flip(2) * torch.tensor([1.0, -1.0])]
    assert gradient_matching_loss(slopes, opposite).item() == pytest.approx(2)
    assert gradient_matching_loss(slopes, orthogonal).item() == pytest.approx(1)


def test_only_the_direction_of_each_output_counts(generator):
    synthetic, real = draw(generator)
    scaled = [
        layer * (1.0 + torch.arange(layer.shape[1])).view(1, -1, 1) for layer in real
    ]
    torch.testing.assert_close(
        gradient_matching_loss(synthetic, scaled),
        gradient_matching_loss(synthetic, real),
    )


def test_a_vanishing_gradient_has_a_finite_slope(generator):
    synthetic, real = draw(generator)
    dead = [torch.zeros_like(layer).requires_grad_() for layer in synthetic]
    loss = gradient_matching_loss(dead, real)
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(loss, dead))


def test_gradient_of_the_loss_is_exact(generator):
    synthetic, real = draw(generator)
    assert torch.autograd.gradcheck(
        lambda *layers: gradient_matching_loss(layers, real), tuple(synthetic)
    )


@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_gradients_are_those_of_each_class_alone(name, generator):
    phi, batch = network(name), images(generator)
    class_ids = torch.tensor([2, 0])
    layers = class_gradients(phi, batch, class_ids)
    weights = [weight for weight in phi.parameters() if weight.ndim > 1]
    for y, label in enumerate([2, 0]):
        phi.zero_grad()
        logits = phi(batch[2 * y : 2 * y + 2])
        F.cross_entropy(logits, torch.tensor([label, label])).backward()
        for layer, weight in zip(layers, weights, strict=True):
            torch.testing.assert_close(layer[y], weight.grad.flatten(1))


def test_gradients_of_real_images_carry_no_graph_even_without_grad_mode(generator):
    with torch.no_grad():
        layers = class_gradients(network(), images(generator), torch.tensor([0, 1]))
    assert not any(layer.requires_grad for layer in layers)
    assert all(layer.abs().sum() > 0 for layer in layers)


def test_the_same_images_in_another_order_match(generator):
    phi, batch, class_ids = network(), images(generator), torch.tensor([0, 1])
    real = class_gradients(phi, batch, class_ids)
    shuffled = class_gradients(phi, batch[torch.tensor([1, 0, 3, 2])], class_ids)
    loss = gradient_matching_loss(shuffled, real)
    assert loss.item() == pytest.approx(0, abs=1e-9)


def test_slope_at_the_images_is_exact(generator):
    phi, class_ids = network(), torch.tensor([0, 1])
    real = class_gradients(phi, images(generator), class_ids)
    synthetic = images(generator, count=2).requires_grad_()

    def loss(batch):
        return gradient_matching_loss(
            class_gradients(phi, batch, class_ids, create_graph=True), real
        )

    assert torch.autograd.gradcheck(loss, synthetic)
