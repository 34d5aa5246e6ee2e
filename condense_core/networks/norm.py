"""Instance norm, with a second derivative in closed form.

PyTorch differentiates its group norm twice through a formula of a hundred small
operations, most of what a window of unrolled training consists of. Here the second
derivative is one function of the five row statistics it depends on.

Shape legend: B batch, C channels, N = H * W pixels of a map.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._triton import has_triton

SecondDerivative = Callable[..., tuple[Tensor, Tensor, Tensor]]


class InstanceNorm(nn.GroupNorm):
    """One group a channel: what the condensation literature calls instance norm.

    Unlike `torch.nn.InstanceNorm2d` it has a learnt scale and shift, and it treats
    training and evaluation alike, so that an image never depends on its batch mates.

    Attributes:
        twice: None for PyTorch's own derivatives, else the function that computes the
            second ones, see `differentiate_twice`.
    """

    twice: SecondDerivative | None = None

    def __init__(self, width: int) -> None:
        """Norm of ``width`` channels."""
        super().__init__(width, width)

    def forward(self, input: Tensor) -> Tensor:
        """Normalised (B, C, H, W)."""
        if self.twice is None:
            return super().forward(input)
        output: Tensor = _Norm.apply(
            input.to(self.weight.dtype), self.weight, self.bias, self.eps, self.twice
        )
        return output


def second_derivative(
    grad_grad_input: Tensor,
    grad_grad_weight: Tensor,
    grad_grad_bias: Tensor,
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Backward pass of the backward pass of instance norm.

    With the normalised input u, the backward pass of a norm of scale w and inverse
    standard deviation r maps the gradient g at the output to
    ``w r (g - <g> - u <g u>)`` at the input and to the sums of ``g u`` and ``g`` at
    scale and shift; ``<>`` is the mean of a map.

    Args:
        grad_grad_input: (B, C, H, W) gradient at the first of these.
        grad_grad_weight: (C,) gradient at the second.
        grad_grad_bias: (C,) gradient at the third.
        grad_output: g, as the input.
        input: (B, C, H, W).
        weight: w, (C,).
        mean: Of each map, (B, C).
        inverse_std: r, (B, C).

    Returns:
        Gradients at g, at the input and at w.
    """
    shape = input.shape
    a, g, x = (values.flatten(2) for values in (grad_grad_input, grad_output, input))
    w, to_w, to_b = (
        values[:, None] for values in (weight, grad_grad_weight, grad_grad_bias)
    )
    r = inverse_std[..., None]
    # Where the memory decides, on a CPU, a map that is already there is not made anew.
    u = (x - mean[..., None]).mul_(r)
    mean_a, mean_g = a.mean(2, keepdim=True), g.mean(2, keepdim=True)
    mean_au = (a * u).mean(2, keepdim=True)
    mean_gu = (g * u).mean(2, keepdim=True)
    joint = (a * g).mean(2, keepdim=True) - mean_a * mean_g - mean_au * mean_gu
    wr = w * r
    along = to_w - wr * mean_au
    in_gradient = torch.addcmul(to_b - wr * mean_a, along, u).addcmul_(wr, a)
    # Through u, then through r where it stands alone.
    constant = along * mean_g - wr * mean_gu * mean_a
    through = (to_w - 2 * wr * mean_au) * mean_gu + wr * joint
    in_input = torch.addcmul(-r * constant, r * along, g)
    in_input.addcmul_(-r * wr * mean_gu, a).addcmul_(-r * through, u)
    in_weight = (r * joint).sum(dim=(0, 2)) * x.shape[2]
    return in_gradient.view(shape), in_input.view(shape), in_weight


def differentiate_twice(network: nn.Module, *, fused: bool = False) -> None:
    """Let a network's norms have second derivatives in closed form, in place.

    Args:
        network: Its `InstanceNorm` modules are changed. No third derivative can be
            taken then, nor `torch.func` transforms be applied.
        fused: Whether to compute each in one kernel, on a CUDA device, where Triton is
            installed and can compile.
    """
    twice = second_derivative
    if fused and has_triton():
        twice = _fused_second_derivative()
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.twice = twice


@cache
def _fused_second_derivative() -> SecondDerivative:
    compiled = torch.compile(second_derivative, dynamic=False)
    works = True

    def fused(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal works
        if works:
            try:
                # Of one layout: each of them would be compiled on its own.
                results: tuple[Tensor, Tensor, Tensor] = compiled(
                    *(values.contiguous() for values in tensors)
                )
                return results
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # of whatever is missing: a compiler, headers
                works = False
                line = " ".join(str(error).split())[:200]
                warnings.warn(
                    "students take longer: PyTorch cannot compile here "
                    f"({type(error).__name__}: {line})",
                    stacklevel=2,
                )
        return second_derivative(*tensors)

    return fused


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, twice: Any
    ) -> Tensor:
        batch, channels = input.shape[:2]
        pixels = input[0, 0].numel()
        output, mean, inverse_std = torch.native_group_norm(
            input.contiguous(), weight, bias, batch, channels, pixels, channels, eps
        )
        ctx.save_for_backward(input, weight, mean, inverse_std)
        ctx.twice = twice
        result: Tensor = output
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        saved = ctx.saved_tensors
        return *_NormBackward.apply(grad_outputs[0], *saved, ctx.twice), None, None


class _NormBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        grad_output: Tensor,
        input: Tensor,
        weight: Tensor,
        mean: Tensor,
        inverse_std: Tensor,
        twice: Any,
    ) -> Any:
        batch, channels = input.shape[:2]
        pixels = input[0, 0].numel()
        ctx.save_for_backward(grad_output, input, weight, mean, inverse_std)
        ctx.twice = twice
        return torch.ops.aten.native_group_norm_backward(
            grad_output.contiguous(),
            input.contiguous(),
            mean,
            inverse_std,
            weight,
            batch,
            channels,
            pixels,
            channels,
            [True, True, True],
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_grads: Tensor) -> Any:
        return *ctx.twice(*grad_grads, *ctx.saved_tensors), None, None, None
