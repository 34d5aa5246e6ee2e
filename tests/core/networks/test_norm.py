import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from condense_core.networks import build_network
from condense_core.networks import norm as norms
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


@pytest.fixture
def compiling(monkeypatch):
    """Let `differentiate_twice` compile by a function of the test."""

    def by(compiled):
        monkeypatch.setattr(norms, "has_triton", lambda: True)
        monkeypatch.setattr(torch, "compile", lambda *_, **__: compiled)
        norms._fused_second_derivative.cache_clear()

    yield by
    norms._fused_second_derivative.cache_clear()


def curved(norm, inputs):
    """Second derivatives at images that lie channels last."""
    images, *rest = inputs
    images = images.detach().to(memory_format=torch.channels_last).requires_grad_()
    output = called(norm)(images, *rest)
    (slope,) = torch.autograd.grad(output.square().sum(), images, create_graph=True)
    return torch.autograd.grad(slope.square().sum(), images)[0]


@pytest.mark.parametrize("missing", [RuntimeError, FileNotFoundError])
def test_what_cannot_be_compiled_is_computed_step_by_step(
    norm, inputs, compiling, missing
):
    calls = []

    def compiled(*_):
        calls.append(1)
        raise missing("Failed to find C compiler\n")

    compiling(compiled)
    expected = curved(norm, inputs)
    differentiate_twice(norm, fused=True)
    with pytest.warns(UserWarning, match="take longer: .*: Failed to find C compiler"):
        assert torch.allclose(curved(norm, inputs), expected)
    assert torch.allclose(curved(norm, inputs), expected)  # and is not said again
    assert calls == [1]


def test_running_out_of_memory_is_no_failure_to_compile(norm, inputs, compiling):
    def compiled(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    compiling(compiled)
    differentiate_twice(norm, fused=True)
    with pytest.raises(torch.OutOfMemoryError):
        curved(norm, inputs)


def test_one_layout_is_compiled(norm, inputs, compiling):
    seen = []

    def compiled(*tensors):
        seen.extend(values.is_contiguous() for values in tensors)
        return norms.second_derivative(*tensors)

    compiling(compiled)
    expected = curved(norm, inputs)
    differentiate_twice(norm, fused=True)
    assert torch.allclose(curved(norm, inputs), expected)
    assert seen == [True] * 8


def test_without_triton_nothing_is_compiled(norm, monkeypatch):
    monkeypatch.setattr(norms, "has_triton", lambda: False)
    differentiate_twice(norm, fused=True)
    assert norm.twice is norms.second_derivative
