import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from condense_core.networks import build_network
from condense_core.networks.norm import InstanceNorm, differentiate_twice


@pytest.fixture
def norm():
    return InstanceNorm(3).double()


@pytest.fixture
def inputs(generator):
    def draw(*shape):
        values = torch.randn(*shape, generator=generator, dtype=torch.double)
        return values.requires_grad_()

    return draw(2, 3, 3, 4), draw(3), draw(3)


def called(norm):
    def function(images, weight, bias):
        return functional_call(norm, {"weight": weight, "bias": bias}, (images,))

    return function


def test_it_is_group_norm_of_one_channel_a_group(norm, inputs):
    images, weight, bias = inputs
    wanted = F.group_norm(images, 3, weight, bias)
    assert torch.allclose(called(norm)(*inputs), wanted)
    differentiate_twice(norm)
    assert torch.allclose(called(norm)(*inputs), wanted)


def test_both_derivatives_are_right(norm, inputs):
    differentiate_twice(norm)
    assert torch.autograd.gradcheck(called(norm), inputs)
    assert torch.autograd.gradgradcheck(called(norm), inputs)


def test_a_constant_map_has_finite_derivatives(norm, inputs):
    differentiate_twice(norm)
    _, weight, bias = inputs
    flat = torch.ones(2, 3, 3, 4, dtype=torch.double).requires_grad_()
    output = called(norm)(flat, weight, bias)
    (slope,) = torch.autograd.grad(output.square().sum(), flat, create_graph=True)
    (curve,) = torch.autograd.grad(slope.square().sum(), flat)
    assert curve.isfinite().all()


def test_a_network_is_differentiated_as_before(device):
    def curvature(network):
        images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        images = images.to(device).requires_grad_()
        weights = list(network.parameters())
        loss = network(images).square().sum()
        slopes = torch.autograd.grad(loss, weights, create_graph=True)
        return torch.autograd.grad(sum(s.square().sum() for s in slopes), images)[0]

    plain, closed = (
        build_network(
            "convnet", image_shape=(3, 8, 8), num_classes=2, width=4, seed=0
        ).to(device)
        for _ in range(2)
    )
    differentiate_twice(closed)
    expected, found = curvature(plain), curvature(closed)
    rounding = 1e-2 if device.type == "cuda" else 1e-4
    assert (expected - found).norm() < rounding * expected.norm()
    if device.type == "cuda":
        differentiate_twice(closed, fused=True)
        assert (expected - curvature(closed)).norm() < rounding * expected.norm()
