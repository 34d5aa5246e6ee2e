"""One run on many GPUs: each process computes a share of the classes of every step.

Started by ``torchrun --nproc-per-node N -m condense_core run ...``. All processes hold
the same networks and make the same draws for the whole step; each then looks at its own
rows of them, and gradients are summed. What a step computes is therefore that of one
process up to the order of sums. Three things couple the classes and are exchanged: the
batch norms of the generator, the class means of L_inter, and the weight updates of a
student of the unrolled objective.

The unit of everything is a *part*: losses are means over the rows of a part times its
share of the whole, so that the parts sum to the mean over the whole.

Shape legend: Y classes of a step, C channels.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn

from condense_core.compute.devices import resolve_device
from condense_core.compute.parts import Part
from condense_core.config import CondenseConfig
from condense_core.errors import ConfigError, RunError

# A process that ends is noticed at once; this bounds the wait for one that hangs.
TIMEOUT = timedelta(minutes=10)
PATIENCE = timedelta(days=7)  # for what the first process alone does: its teacher


class _Sum(torch.autograd.Function):
    """All-reduce, whose adjoint is itself."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed: Tensor = _Sum.apply(gradient)
        return summed


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of a run; without others every method is the identity.

    Attributes:
        rank: Its number, from 0.
        world: Number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and evaluates."""
        return self.rank == 0

    def part(self, whole: int) -> Part:
        """This process's rows of a batch: consecutive, and as even as can be."""
        start, stop = (whole * r // self.world for r in (self.rank, self.rank + 1))
        return Part(start, stop, whole)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, differentiable any number of times."""
        if self.world == 1:
            return values
        total: Tensor = _Sum.apply(values)
        return total

    def sum_all(self, values: Iterable[Tensor]) -> list[Tensor]:
        """`sum` of each tensor, in one exchange."""
        values = list(values)
        if self.world == 1:
            return values
        total = self.sum(torch.cat([value.flatten() for value in values]))
        pieces = total.split([value.numel() for value in values])
        return [p.view_as(v) for p, v in zip(pieces, values, strict=True)]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of parameters over the processes, in place."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        with torch.no_grad():
            for gradient, total in zip(gradients, self.sum_all(gradients), strict=True):
                gradient.copy_(total)

    def gather(self, rows_YD: Tensor, part: Part) -> Tensor:
        """All rows of a matrix of which this process has a part, differentiable."""
        if self.world == 1:
            return rows_YD
        above, below = part.start, part.whole - part.stop
        return self.sum(nn.functional.pad(rows_YD, (0, 0, above, below)))

    def norm(self, rows: Tensor) -> Tensor:
        """Euclidean norm of a tensor of which this process has a part."""
        own = rows.norm()
        return own if self.world == 1 else self.sum(own.square()).sqrt()

    def totals(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums of detached scalars by name."""
        summed = self.sum_all(value.detach() for value in parts.values())
        return dict(zip(parts, summed, strict=True))

    def copy_first(self, module: nn.Module) -> None:
        """Give a module the parameters and buffers it has in the first process."""
        if self.world == 1:
            return
        self._wait_for_first()
        for value in module.state_dict().values():
            distributed.broadcast(value, src=0)

    def from_first(self, make: Callable[[], Any], device: torch.device) -> Any:
        """What ``make`` returns in the first process: tensors and plain values."""
        if self.world == 1:
            return make()
        message: list[bytes | None] = [None]
        if self.first:
            buffer = io.BytesIO()
            torch.save(make(), buffer)
            message = [buffer.getvalue()]
        self._wait_for_first()
        distributed.broadcast_object_list(message, src=0, device=device)
        assert message[0] is not None
        return torch.load(
            io.BytesIO(message[0]), map_location=device, weights_only=True
        )

    def _wait_for_first(self) -> None:
        """Let the first process take its time."""
        distributed.barrier(group=_patient_group())


class Apart(Ranks):
    """One of several processes without the others: to time what it has to compute."""

    def sum(self, values: Tensor) -> Tensor:
        """The addend of this process."""
        return values


ALONE = Ranks()
_patient: list[Any] = []  # the group of the running `process_group`


def check_ranks(config: CondenseConfig, num_classes: int, ranks: Ranks) -> None:
    """Refuse more processes than a step has classes or phi real images.

    Raises:
        ConfigError: Says how many there may be; or a term cannot be shared at all.
    """
    if ranks.world > 1 and config.loss.trajectory:
        raise ConfigError(
            f"loss.trajectory is {config.loss.trajectory}, but its students need all "
            "classes in one process: set it to 0, or run without torchrun"
        )
    for limit, what in (
        (min(config.loop.classes_per_step or num_classes, num_classes), "classes"),
        (config.loop.network_batch, "images of phi (loop.network_batch)"),
    ):
        if ranks.world > limit:
            raise ConfigError(
                f"{ranks.world} processes for {limit} {what} of a step: use torchrun "
                f"--nproc-per-node {limit} or fewer"
            )


def own_device(name: str) -> torch.device:
    """The device of this process: ``cuda`` is the GPU that torchrun means it to have.

    It becomes the current one, so that nothing is ever put on the GPU of another.

    Raises:
        ConfigError: The name is not that of a device, or that of one GPU for many
            processes.
        RunError: This machine has no such device.
    """
    if _world() == 1:
        return resolve_device(name)
    if name.startswith("cuda:"):
        raise ConfigError(
            f"--device {name} is one GPU for {_world()} processes: use --device cuda, "
            "which gives each its own (CUDA_VISIBLE_DEVICES says of which)"
        )
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    device = resolve_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone without it.

    Args:
        device: That of `own_device`.

    Yields:
        This process among them.

    Raises:
        RunError: Another process ended or hangs; the same command goes on.
    """
    world = _world()
    if world == 1:
        yield ALONE
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _lost_process():
        distributed.init_process_group(backend, timeout=TIMEOUT)
        _patient_group()
        yield Ranks(distributed.get_rank(), world)
        _patient.clear()
        distributed.destroy_process_group()


def _world() -> int:
    """Processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _patient_group() -> Any:
    if not _patient:
        _patient.append(distributed.new_group(backend="gloo", timeout=PATIENCE))
    return _patient[0]


@contextmanager
def _lost_process() -> Iterator[None]:
    try:
        yield
    except RunError:
        raise
    except RuntimeError as error:
        text = str(error)
        known = isinstance(error, distributed.DistError) or "gloo" in text.lower()
        if not known:
            raise
        raise RunError(
            "another process of this run ended or hangs "
            f"({text.splitlines()[0][:200]}): run the same torchrun command again to "
            "go on from the last checkpoint"
        ) from error


@contextmanager
def shared_norms(module: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Inside, batch norms in training mode see the batches of all processes as one.

    `torch.nn.SyncBatchNorm` does the same, on GPUs alone.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    norms = norms if ranks.world > 1 else []
    for norm in norms:
        norm.forward = partial(_shared_batch_norm, norm, ranks)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _shared_batch_norm(
    norm: nn.BatchNorm2d, ranks: Ranks, images_BCHW: Tensor
) -> Tensor:
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, images_BCHW)
    over = 0, 2, 3
    values = images_BCHW.to(norm.weight.dtype)  # sums of bf16 are kept in fp32
    count = values.new_full((1,), values.numel() // values.shape[1])
    sums = ranks.sum(torch.cat([values.sum(over), count]))
    total = sums[-1].detach()
    mean_C = sums[:-1] / total
    centred = values - mean_C.view(1, -1, 1, 1)
    variance_C = ranks.sum(centred.square().sum(over)) / total
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean_C, norm.momentum)
        norm.running_var.lerp_(variance_C * total / (total - 1), norm.momentum)
    scale_C = norm.weight * (variance_C + norm.eps).rsqrt()
    normed = centred * scale_C.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    return normed.to(images_BCHW.dtype)
