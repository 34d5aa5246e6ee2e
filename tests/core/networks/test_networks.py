import pytest
import torch
from torch import nn

from condense_core.errors import ConfigError
from condense_core.networks import NETWORKS, build_network
from condense_core.networks.convnet import default_depth
from condense_core.networks.norm import InstanceNorm
from condense_core.networks.pool import AveragePool


def build(name="convnet", *, image_shape=(1, 8, 8), num_classes=3, seed=0, **sizes):
    return build_network(
        name, image_shape=image_shape, num_classes=num_classes, seed=seed, **sizes
    )


def parameter_count(network):
    return sum(parameter.numel() for parameter in network.parameters())


# Counts of the reference implementations for 32x32 colour images and ten classes.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convnet", 320_010),
        ("alexnet", 1_872_202),
        ("vgg11", 9_231_114),
        ("resnet18", 11_173_962),
        ("mlp", 411_146),
    ],
)
def test_published_size_on_cifar10(name, count):
    network = build(name, image_shape=(3, 32, 32), num_classes=10)
    assert parameter_count(network) == count


def test_convnet_has_the_layers_of_the_literature():
    network = build(image_shape=(3, 32, 32), num_classes=10)
    layers = [layer for block in network.blocks for layer in block]
    kinds = [nn.Conv2d, InstanceNorm, nn.ReLU, AveragePool] * 3
    assert [type(layer) for layer in layers] == kinds
    for norm in layers[1::4]:
        assert (norm.num_groups, norm.num_channels, norm.affine) == (128, 128, True)
    assert all(convolution.padding == (1, 1) for convolution in layers[::4])
    assert network.classifier.in_features == 2048


def test_convnet_pads_28_px_grey_images_to_32():
    network = build(image_shape=(1, 28, 28), num_classes=10)
    assert network.blocks[0][0].padding == (3, 3)
    assert parameter_count(network) == 317_706  # as published for MNIST


def test_convnet_features_match_a_functional_reference():
    network = build(width=4)
    images = torch.randn(2, 1, 8, 8)
    expected = images
    for convolution, norm, _, _ in network.blocks:
        maps = nn.functional.conv2d(
            expected, convolution.weight, convolution.bias, padding=1
        )
        centre = maps.mean((2, 3), keepdim=True)
        spread = maps.var((2, 3), keepdim=True, unbiased=False)
        maps = (maps - centre) / (spread + norm.eps).sqrt()
        expected = nn.functional.avg_pool2d(maps.relu(), 2)
    features = network.layer_features(images)
    assert torch.allclose(features[-1], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("image_shape", "depth"),
    [
        ((1, 2, 2), 1),
        ((1, 4, 4), 2),
        ((1, 7, 7), 2),
        ((1, 8, 8), 3),
        ((1, 28, 28), 3),
        ((3, 32, 32), 3),
        ((3, 8, 64), 3),
        ((3, 64, 64), 4),
        ((3, 128, 128), 5),
    ],
)
def test_default_depth_follows_the_shorter_side(image_shape, depth):
    assert default_depth(image_shape) == depth
    assert len(build(image_shape=image_shape, width=2).blocks) == depth


@pytest.mark.parametrize(
    "image_shape",
    [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 14), (3, 64, 64)],
)
@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network_takes_every_size(name, image_shape, device):
    network = build(name, image_shape=image_shape, width=4).to(device)
    images = torch.rand(2, *image_shape, device=device)
    features = network.layer_features(images)
    assert network.embed(features[-1]).shape == (2, network.feature_dim)
    assert network.width == 4
    assert torch.equal(network(images), network.classify(features[-1]))
    network(images).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("convnet", [16, 8, 4]),
        ("alexnet", [16, 8, 8, 8, 4]),
        ("vgg11", [16, 8, 8, 4, 4, 2, 2, 1]),
        ("resnet18", [32, 32, 16, 8, 4]),
    ],
)
def test_map_sizes_of_a_32_px_image(name, sides):
    network = build(name, image_shape=(3, 32, 32), width=2)
    features = network.layer_features(torch.zeros(1, 3, 32, 32))
    assert [tuple(f.shape[2:]) for f in features] == [(s, s) for s in sides]


@pytest.mark.parametrize("name", ["convnet", "vgg11", "resnet18"])
@pytest.mark.parametrize("side", [8, 9, 13])
def test_no_norm_sees_a_single_pixel(name, side):
    network = build(name, image_shape=(1, side, side), width=2)
    pixels = []
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(
                lambda _, inputs, __: pixels.append(inputs[0].shape[2:].numel())
            )
    network(torch.zeros(1, 1, side, side))
    assert min(pixels) >= 4


@pytest.mark.parametrize("name", list(NETWORKS))
def test_logits_do_not_depend_on_batch_mates(name):
    network = build(name, width=4)
    images = torch.randn(3, 1, 8, 8)
    assert torch.allclose(network(images)[:1], network(images[:1]), atol=1e-5)


def test_features_are_differentiable_in_the_images():
    network = build(width=4)
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    loss = sum(feature.square().mean() for feature in network.layer_features(images))
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient.abs().sum() > 0


@pytest.mark.usefixtures("untouched_global_rng")
def test_the_seed_alone_decides_the_parameters():
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "lenet"}, "unknown network 'lenet': choose one of convnet, alexnet"),
        ({"depth": 4}, "depth 4 does not fit images of shape (1, 8, 8): use 1 to 3"),
        ({"image_shape": (8, 8)}, "image shape (8, 8) is not (channels, height, width"),
        ({"width": 0}, "network width is 0"),
        ({"num_classes": 0}, "network num_classes is 0"),
        ({"name": "vgg11", "depth": 3}, "'vgg11' has a fixed depth but depth=3"),
    ],
)
def test_a_wrong_setting_is_named(arguments, message):
    with pytest.raises(ConfigError) as error:
        build(**arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["convnet", "vgg11", "resnet18"])
def test_a_single_row_of_pixels_is_refused_where_a_norm_would_erase_it(name):
    with pytest.raises(ConfigError, match="at least 2 px a side"):
        build(name, image_shape=(1, 1, 8))


def test_mlp_depth_counts_hidden_layers():
    network = build("mlp", width=5, depth=4)
    shapes = [f.shape for f in network.layer_features(torch.zeros(2, 1, 8, 8))]
    assert shapes == [(2, 5)] * 4
