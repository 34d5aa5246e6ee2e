"""Tensors as 8-bit numbers with a scale a row, for the memories that store such.

Shape legend: R rows, the first dimension.
"""

import torch
from torch import Tensor

_LEVELS = 127
_SMALLEST_SCALE = 2.0**-24  # of fp16


def pack_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as int8 and one fp16 scale for each entry of the first dimension."""
    largest_R = rows.abs().flatten(1).amax(dim=1)
    scale_R = (largest_R / _LEVELS).clamp_min(_SMALLEST_SCALE).half()
    steps = rows / scale_R.float().view(-1, *[1] * (rows.ndim - 1))
    return steps.round().clamp(-_LEVELS, _LEVELS).to(torch.int8), scale_R


def unpack_rows(steps: Tensor, scale_R: Tensor) -> Tensor:
    """`pack_rows` undone, in fp32."""
    return steps.float() * scale_R.float().view(-1, *[1] * (steps.ndim - 1))


def pack_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels in int8 with a scale a row, vectors in fp16."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if value.ndim > 1:
            tensors[name], tensors[name + ".scale"] = pack_rows(value.detach())
        else:
            tensors[name] = value.detach().half()
    return tensors


def unpack_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`pack_state` undone, in fp32."""
    state = {}
    for name, value in tensors.items():
        scale_R = tensors.get(name + ".scale")
        if not name.endswith(".scale"):
            state[name] = (
                value.float() if scale_R is None else unpack_rows(value, scale_R)
            )
    return state
