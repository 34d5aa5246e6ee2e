"""How weights are stored: fp32, fp16, or int8 with a scale a row.

Shape legend: R rows (first dimension of a weight).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from condense_core.errors import ArtefactError
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser

PRECISIONS = ("fp32", "fp16", "int8")
SCALE_SUFFIX = ".scale"
_CODES = "codebook.codes"  # in modules; the file calls it ``codebook``
_LEVELS = 127


def encode(state: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Module state to stored tensors, on the CPU.

    int8 quantises every matrix and kernel symmetrically, each row by its largest
    magnitude; vectors (biases, batch-norm) stay fp16. Step counters are left out.

    Raises:
        ArtefactError: A value is not finite or too large for the precision.
    """
    stored: dict[str, Tensor] = {}
    for key, value in state.items():
        if not value.is_floating_point():
            continue
        name = "codebook" if key == _CODES else key
        value = value.detach().cpu().float().contiguous()
        if not torch.isfinite(value).all():
            raise ArtefactError(
                f"{name} holds NaN or infinite values, the run diverged: lower its "
                "learning rates (optimiser.*_lr, pretrain.learning_rate)"
            )
        if precision == "fp32":
            stored[name] = value.clone()
        elif precision == "int8" and value.ndim > 1:
            scale_R = value.abs().flatten(1).amax(dim=1).clamp_min(1e-12) / _LEVELS
            rows = scale_R.view(-1, *[1] * (value.ndim - 1))
            stored[name] = (value / rows).round().to(torch.int8)
            stored[name + SCALE_SUFFIX] = scale_R
        else:
            stored[name] = value.half()
            if not torch.isfinite(stored[name]).all():
                raise ArtefactError(
                    f"{name} exceeds the range of fp16: use format.precision=fp32"
                )
    return stored


def decode(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors to module state in fp32."""
    state: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        full = value.float()
        if name + SCALE_SUFFIX in tensors:
            scale_R = tensors[name + SCALE_SUFFIX]
            full = full * scale_R.view(-1, *[1] * (full.ndim - 1))
        state[_CODES if name == "codebook" else name] = full
    return state


def encoded_layout(
    spec: SynthesiserSpec, precision: str
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Name, shape and dtype of every tensor a file of these sizes must hold.

    Computed on the meta device: nothing is allocated, whatever sizes are claimed.
    """
    with torch.device("meta"):
        state = build_synthesiser(spec).state_dict()
    layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for key, value in state.items():
        if not value.is_floating_point():
            continue
        name = "codebook" if key == _CODES else key
        shape = tuple(value.shape)
        if precision == "int8" and len(shape) > 1:
            layout[name] = shape, torch.int8
            layout[name + SCALE_SUFFIX] = shape[:1], torch.float32
        else:
            dtype = torch.float32 if precision == "fp32" else torch.float16
            layout[name] = shape, dtype
    return layout
