"""CUDA graphs: a long chain of small kernels, launched as one.

Differentiating through a training takes thousands of kernels of a few microseconds, and
Python needs longer to launch one than the GPU to run it. Captured once and replayed,
they cost the GPU's time alone.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]


class GraphedFunction:
    """A function of tensors, captured at its first call and replayed from then on.

    The results are overwritten by the next call. A gradient may be taken once for each
    call: the replay of the backward pass frees what a second one would read.

    Example:
        >>> double = GraphedFunction(lambda x: (2 * x,))
        >>> double(torch.ones(3, device="cuda"))  # doctest: +SKIP
        (tensor([2., 2., 2.], device='cuda:0'),)
    """

    def __init__(self, function: Function) -> None:
        """Wrap a function without side effects or synchronisation with the host.

        Args:
            function: Of CUDA tensors, some of which require a gradient; returns a
                tuple of tensors, some of which carry it. It draws no random numbers and
                reads nothing else that changes.
        """
        self._function = function
        self._graphed: Any = None
        self._key: list[Any] = []

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the function returns; captured anew for tensors of other shapes."""
        key = [(t.shape, t.dtype, t.requires_grad) for t in tensors]
        if key != self._key:
            # Their memory becomes that of the graph's inputs: not the caller's.
            examples = tuple(
                t.detach().clone().requires_grad_(t.requires_grad) for t in tensors
            )
            with warnings.catch_warnings():
                # The examples become known to autograd outside of the captured stream.
                warnings.filterwarnings("ignore", message="The AccumulateGrad node")
                self._graphed = torch.cuda.make_graphed_callables(
                    self._function, examples
                )
            self._key = key
        results: tuple[Tensor, ...] = self._graphed(*tensors)
        return results
