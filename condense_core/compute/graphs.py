"""CUDA graphs: a long chain of small kernels, launched as one.

Differentiating through a training takes thousands of kernels of a few microseconds, and
Python needs longer to launch one than the GPU to run it. Captured once and replayed,
they cost the GPU's time alone; and chains that know nothing of each other, captured on
streams of their own, share it.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Function = Callable[..., tuple[Tensor, ...]]
Result = TypeVar("Result")

WARM_UP = 3  # calls before the capture: kernels are chosen and compiled in the first


class GraphedFunction:
    """A function of tensors, captured at its first call and replayed from then on.

    The results are overwritten by the next call.

    Example:
        >>> double = GraphedFunction(lambda x: (2 * x,))
        >>> double(torch.ones(3, device="cuda"))  # doctest: +SKIP
        (tensor([2., 2., 2.], device='cuda:0'),)
    """

    def __init__(self, function: Function) -> None:
        """Wrap a function without side effects or synchronisation with the host.

        Args:
            function: Of CUDA tensors, of which it returns a tuple, detached; what it
                differentiates it differentiates itself. It draws no random numbers and
                reads nothing else that changes.
        """
        self._function = function
        self._key: list[tuple[torch.Size, torch.dtype]] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._results: tuple[Tensor, ...] = ()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What the function returns; captured anew for tensors of other shapes."""
        values = [tensor.detach() for tensor in tensors]
        key = [(value.shape, value.dtype) for value in values]
        # Streams and captures are those of the current GPU, whose graph of the work of
        # another one is empty.
        with torch.cuda.device(values[0].device):
            if key != self._key:
                self._capture(values)
                self._key = key
            assert self._graph is not None
            torch._foreach_copy_(self._inputs, values)
            self._graph.replay()
        return self._results

    def _capture(self, values: list[Tensor]) -> None:
        self._inputs = [value.clone() for value in values]
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._function(*self._inputs)
        here.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # PyTorch's own stream for captures is on the GPU of the first of them.
        with torch.cuda.graph(self._graph, stream=aside):
            self._results = self._function(*self._inputs)


def side_by_side(
    calls: Sequence[Callable[[], Result]], streams: Sequence[torch.cuda.Stream]
) -> list[Result]:
    """Results of calls that know nothing of each other.

    Args:
        calls: What is to be done.
        streams: One a call, or none: then they are done one after another.
    """
    if not streams:
        return [call() for call in calls]
    here = torch.cuda.current_stream()
    results = []
    for call, stream in zip(calls, streams, strict=True):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            results.append(call())
    for stream in streams:
        here.wait_stream(stream)
    return results
