import pytest
import torch
from torch import nn

from condense_core.generator import ConditionalGenerator, default_blocks
from condense_core.seeding import seeded_initialisation


def build(image_shape=(1, 8, 8), *, blocks=None, channels=4):
    with seeded_initialisation(0, "test"):
        return ConditionalGenerator(
            image_shape=image_shape,
            latent_dim=3,
            embedding_dim=5,
            projected_dim=2,
            channels=channels,
            blocks=blocks,
        )


def inputs(count, generator):
    return (
        torch.randn(count, 3, generator=generator),
        torch.randn(count, 5, generator=generator),
    )


def test_longer_side_decides_the_number_of_blocks():
    assert default_blocks(40, 56) == default_blocks(56, 40) == 4
    assert build((1, 8, 100)).base_size == (1, 4)


@pytest.mark.parametrize(
    ("side", "blocks"), [(8, 1), (16, 2), (28, 3), (32, 3), (64, 4), (128, 5)]
)
def test_number_of_blocks_is_the_papers(side, blocks):
    assert default_blocks(side, side) == blocks
    assert len(build((1, side, side)).blocks) == blocks


@pytest.mark.parametrize("blocks", [1, 3])
def test_block_is_two_activation_convolution_norm_layers_and_an_upsampling(blocks):
    expected = [nn.ReLU, nn.Conv2d, nn.BatchNorm2d] * 2 + [nn.Upsample]
    generator = build((1, 16, 16), blocks=blocks)
    assert [[type(layer) for layer in block] for block in generator.blocks] == [
        expected
    ] * blocks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size",
    [(8, 8), (9, 9), (28, 28), (31, 33), (32, 32), (40, 56), (64, 64), (8, 100)],
)
def test_images_have_the_size_asked_for_and_lie_in_the_unit_range(
    size, channels, generator, device
):
    network = build((channels, *size)).to(device)
    images = network(*(value.to(device) for value in inputs(2, generator)))
    assert images.shape == (2, channels, *size)
    assert 0 <= images.min() < images.max() <= 1


def test_largest_size_works(generator):
    network = build((1, 128, 128), channels=2)
    assert network(*inputs(1, generator)).shape == (1, 1, 128, 128)


def test_crop_takes_the_centre():
    network = build((1, 28, 28))
    canvas = torch.arange(32.0 * 32).view(1, 1, 32, 32)
    assert torch.equal(network._crop(canvas), canvas[:, :, 2:30, 2:30])


@pytest.mark.parametrize(
    ("image_shape", "blocks"),
    [((1, 8, 8), None), ((1, 28, 28), None), ((1, 8, 8), 3), ((1, 32, 32), 5)],
)
def test_single_image_can_be_trained_on(image_shape, blocks, generator):
    network = build(image_shape, blocks=blocks)
    images = network(*inputs(1, generator))
    assert images.shape == (1, *image_shape)
    images.square().sum().backward()
    assert network.stem.weight.grad.abs().sum() > 0


def test_code_and_class_both_change_the_image(generator):
    network = build().eval()
    codes, embeddings = inputs(2, generator)
    image = network(codes[:1], embeddings[:1])
    assert not torch.allclose(image, network(codes[1:], embeddings[:1]), atol=1e-4)
    assert not torch.allclose(image, network(codes[:1], embeddings[1:]), atol=1e-4)


def test_gradient_reaches_codes_embeddings_and_every_weight(generator):
    network = build()
    codes, embeddings = inputs(4, generator)
    network(
        codes.requires_grad_(), embeddings.requires_grad_()
    ).square().sum().backward()
    for value in (codes, embeddings, *network.parameters()):
        assert value.grad is not None
        assert value.grad.abs().sum() > 0


def test_forward_is_projection_stem_blocks_image_and_sigmoid(generator):
    network = build().eval()
    codes, embeddings = inputs(3, generator)
    latent = torch.cat([codes, network.project(embeddings)], dim=1)
    expected = network.stem(latent).view(3, 4, 4, 4)
    expected = network.stem_norm(expected)
    for block in network.blocks:
        for layer in block:
            expected = layer(expected)
    expected = 1 / (1 + torch.exp(-network.to_image(expected)))
    torch.testing.assert_close(network(codes, embeddings), expected)
