import pytest
import torch

from condense_core.errors import ConfigError
from condense_core.losses.matching import MATCHING_MODES, matching_loss
from tests import reference


def draw(generator, *, classes=3, images=2, layers=((4, 2, 2), (3,))):
    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    synthetic = [random(classes, images, *layer) for layer in layers]
    return synthetic, [random(classes, *layer) for layer in layers]


@pytest.mark.parametrize("mode", MATCHING_MODES)
@pytest.mark.parametrize(("classes", "images"), [(1, 1), (1, 4), (3, 1), (3, 5)])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0]])
def test_loss_matches_the_reference(mode, classes, images, weights, generator, device):
    synthetic, real = draw(generator, classes=classes, images=images)
    loss = matching_loss(
        [layer.to(device) for layer in synthetic],
        [mean.to(device) for mean in real],
        mode=mode,
        layer_weights=weights,
    )
    expected = reference.matching(synthetic, real, mode=mode, layer_weights=weights)
    assert loss.item() == pytest.approx(expected)


def test_modes_agree_with_one_image_per_class(generator):
    synthetic, real = draw(generator, images=1)
    torch.testing.assert_close(
        matching_loss(synthetic, real, mode="per_sample"),
        matching_loss(synthetic, real, mode="class_mean"),
    )


def test_per_sample_adds_the_spread_of_the_images_to_class_mean(generator):
    synthetic, real = draw(generator, images=4)
    spread = sum(layer.var(dim=1, correction=0).mean() for layer in synthetic)
    torch.testing.assert_close(
        matching_loss(synthetic, real, mode="per_sample"),
        matching_loss(synthetic, real, mode="class_mean") + spread,
    )


def test_images_that_average_to_the_real_mean_cost_nothing():
    synthetic = [torch.tensor([[[1.0, 5.0], [3.0, -5.0]]])]
    real = [torch.tensor([[2.0, 0.0]])]
    assert matching_loss(synthetic, real).item() == 0
    assert matching_loss(synthetic, real, mode="per_sample").item() == 13


@pytest.mark.parametrize("mode", MATCHING_MODES)
def test_order_of_images_and_classes_does_not_matter(mode, generator):
    synthetic, real = draw(generator, images=4)
    classes, images = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(
        matching_loss(
            [layer[classes][:, images] for layer in synthetic],
            [mean[classes] for mean in real],
            mode=mode,
        ),
        matching_loss(synthetic, real, mode=mode),
    )


def test_a_layer_of_weight_zero_is_left_out(generator):
    synthetic, real = draw(generator)
    torch.testing.assert_close(
        matching_loss(synthetic, real, layer_weights=[0.0, 1.0]),
        matching_loss(synthetic[1:], real[1:]),
    )


def test_weights_for_another_number_of_layers_are_refused(generator):
    synthetic, real = draw(generator)
    with pytest.raises(ConfigError, match=r"loss\.layer_weights has 3 .* 2 layers"):
        matching_loss(synthetic, real, layer_weights=[1.0, 1.0, 1.0])


@pytest.mark.parametrize("mode", MATCHING_MODES)
def test_gradient_is_exact(mode, generator):
    synthetic, real = draw(generator)
    for layer in synthetic:
        layer.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *layers: matching_loss(layers, real, mode=mode), tuple(synthetic)
    )
