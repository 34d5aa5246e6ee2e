"""How the loop computes: precision of its products, memory layout, compilation."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from condense_core.config import ComputeConfig, CondenseConfig
from condense_core.errors import ConfigError
from condense_core.networks import FeatureNetwork


def resolve_precision(name: str, device: torch.device) -> str:
    """fp32, tf32 or bf16: what ``auto`` means on a device.

    ``auto`` is tf32 on CUDA: its 10 bits of mantissa are what PyTorch convolves with by
    default there, all of the published GPU numbers of the field included. bf16 has 7,
    and the norms between the convolutions stay fp32 under autocast, so that it is left
    to be asked for. Elsewhere ``auto`` is fp32.

    Raises:
        ConfigError: tf32 is asked of a device that has none.
    """
    if name == "auto":
        return "tf32" if device.type == "cuda" else "fp32"
    if name == "tf32" and device.type != "cuda":
        raise ConfigError(
            f"compute.precision=tf32 needs a CUDA device, not {device.type}: use auto"
        )
    return name


def uses_graphs(config: ComputeConfig, device: torch.device, world: int) -> bool:
    """Whether windows of students are replayed as CUDA graphs.

    Args:
        config: ``compile`` decides.
        device: Where they are trained.
        world: Processes that share them; between several there is communication, which
            is not captured.

    Raises:
        ConfigError: Graphs are asked of a device that has none, or of several
            processes.
    """
    possible = device.type == "cuda" and world == 1
    if config.compile == "graphs" and not possible:
        raise ConfigError(
            f"compute.compile=graphs needs one process on a CUDA device, not {world} "
            f"on {device.type}: use auto"
        )
    return possible and config.compile in ("auto", "graphs")


def check_compute(
    config: CondenseConfig, device: torch.device, *, world: int = 1
) -> None:
    """Refuse, before any work, what ``compute`` asks for and there is not.

    Raises:
        ConfigError: As `resolve_precision` and, with students, `uses_graphs`.
    """
    resolve_precision(config.compute.precision, device)
    if config.loss.unrolled:
        uses_graphs(config.compute, device, world)


@contextmanager
def compute_scope(config: ComputeConfig, device: torch.device) -> Iterator[None]:
    """Compute as configured inside a ``with``; settings are as before afterwards.

    Weights, optimisers and losses stay fp32. Autocast keeps no cache of cast weights:
    the scope spans many updates, and a cached copy would be that of an old step.
    Compiled backward passes must not give their buffers away: the gradient of each term
    is logged before that of the sum is taken.

    Raises:
        ConfigError: As `resolve_precision`.
    """
    precision = resolve_precision(config.precision, device)
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    if device.type == "cuda":
        matmul.allow_tf32 = cudnn.allow_tf32 = precision != "fp32"
    lowered = torch.autocast(
        device.type,
        dtype=torch.bfloat16,
        enabled=precision == "bf16",
        cache_enabled=False,
    )
    try:
        with lowered, _buffers_kept(config):
            yield
    finally:
        if device.type == "cuda":
            matmul.allow_tf32, cudnn.allow_tf32 = before


def full_precision(values: Tensor) -> Tensor:
    """At least fp32: for what is averaged, subtracted or stored after bf16 products."""
    return values.float() if values.dtype in (torch.bfloat16, torch.half) else values


def prepare_generator(module: nn.Module, config: ComputeConfig) -> None:
    """Memory layout and compilation of G, in place; its state keeps names and values.

    Its weights lie channels last, as tensor cores read them; on a CPU too a step of G
    takes a fifth to a third less. The networks do not: instance norm
    (`torch.nn.GroupNorm`) has no such kernel on CUDA and would turn the layout around
    after every convolution, and on a CPU its kernel is many times slower on it.
    """
    module.to(memory_format=torch.channels_last)
    if config.compile == "default":
        module.compile(dynamic=False)


def prepare_network(network: FeatureNetwork, config: ComputeConfig) -> None:
    """Compilation of phi, in place: of the features that every term reads."""
    if config.compile == "default":
        # Shapes are static: with symbolic ones a second backward pass through a kept
        # graph, as logging takes, gave wrong gradients (PyTorch 2.14).
        compiled = torch.compile(network.layer_features, dynamic=False)
        network.layer_features = compiled  # type: ignore[method-assign]


def _buffers_kept(config: ComputeConfig) -> AbstractContextManager[None]:
    if config.compile != "default":
        return nullcontext()
    import torch._functorch.config as functorch_config

    kept: AbstractContextManager[None] = functorch_config.patch(donated_buffer=False)
    return kept
