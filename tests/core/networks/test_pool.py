"""Average pooling of a CPU against PyTorch's, value by value and slope by slope."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from condense_core.networks.pool import AveragePool

SHAPES = [(3, 4, 8, 8), (2, 5, 7, 9), (1, 1, 2, 3)]


def loop_reference(images):
    """Mean of every window, one after another."""
    batch, channels, height, width = images.shape
    out = torch.empty(batch, channels, height // 2, width // 2)
    for row in range(height // 2):
        for column in range(width // 2):
            window = images[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            out[..., row, column] = window.mean((-1, -2))
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_mean_of_every_window(shape):
    images = torch.randn(shape)
    torch.testing.assert_close(AveragePool()(images), loop_reference(images))


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_slopes_are_those_of_pytorch(shape):
    images = torch.randn(shape, requires_grad=True)
    ours, theirs = AveragePool()(images), avg_pool2d(images, 2)
    torch.testing.assert_close(ours, theirs)
    towards = torch.randn_like(theirs)
    (ours_slope,) = torch.autograd.grad(ours, images, towards)
    (their_slope,) = torch.autograd.grad(theirs, images, towards)
    torch.testing.assert_close(ours_slope, their_slope)


def test_it_can_be_differentiated_twice():
    images = torch.randn(2, 3, 6, 6, requires_grad=True)
    towards = torch.randn(2, 3, 3, 3)

    def curvature(pooled):
        (slope,) = torch.autograd.grad(
            (pooled**3 * towards).sum(), images, create_graph=True
        )
        return torch.autograd.grad(slope.square().sum(), images)[0]

    torch.testing.assert_close(
        curvature(AveragePool()(images)), curvature(avg_pool2d(images, 2))
    )


def test_networks_side_by_side_pool_each_its_own():
    images = torch.randn(4, 2, 3, 6, 6)
    side_by_side = torch.func.vmap(AveragePool())(images)
    one_by_one = torch.stack([AveragePool()(each) for each in images])
    torch.testing.assert_close(side_by_side, one_by_one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_keeps_the_precision_it_is_given(dtype):
    images = torch.randn(2, 3, 4, 4).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = AveragePool()(images)
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, avg_pool2d(images, 2))


def test_it_is_known_as_an_average_pool():
    assert isinstance(AveragePool(), nn.AvgPool2d)
    assert AveragePool().state_dict() == {}
