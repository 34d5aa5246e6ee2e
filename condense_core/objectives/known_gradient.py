"""A loss whose gradient at the images has been computed already."""

from typing import Any

import torch
from torch import Tensor


class WithGradient(torch.autograd.Function):
    """``apply(images, value, gradient)``: the value, with this gradient at the images.

    It can be summed with other terms, and keeps nothing of how it was computed.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """The value."""
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        """The gradient, as much of it as is asked for."""
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient, None, None
