"""Speed of Algorithm 1: steps and images a second, memory, share of the floor.

Times the first outer iterations (M updates of codebook and generator, then one of phi)
of a preset on its real data, as many as lie between two lines of the log, which cost a
gradient of every term. They are interleaved with the plain reference of `plain.py`,
which must make the same images after the first of them, but for rounding. On a CPU the
reference is timed a second time, in a process of its own whose memory is left to the C
library, as a program has it that is not told otherwise. The floor is the time that the
FLOPs of a step take at the rate of a large matrix product, measured in the same run in
the same precision.

    python benchmarks/engine.py mnist-ipc10-paper --data-root DATA \
        --set loop.reuse_association=true
"""

import copy
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from plain import PlainState
from timing import finish, interleaved, parser, start, wait
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from condense_core.compute.mode import compute_scope, resolve_precision
from condense_core.config import ComputeConfig, CondenseConfig
from condense_core.data.class_sampler import ClassSampler
from condense_core.engine import condense_loop
from condense_core.loop_state import LoopState
from condense_core.monitor import LOG_EVERY
from condense_core.runlog import RunLog
from condense_core.runs.experiment import load_splits
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import (
    Synthesiser,
    SynthesiserSpec,
    build_synthesiser,
)

MIDST_OF_A_RUN = [
    "loop.restarts=1",
    "loop.network_updates=1000000",
    "evaluate.probe_every=0",
    "optimiser.decay=none",
]
MATRIX = 2048  # side of the products that the floor is measured by
EMBEDDING = 128
LISTED = 15  # kernels of a profile


class EnoughError(Exception):
    """Raised in the midst of a run, where it was timed long enough."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("preset")
    options.add_argument("--data-root", type=Path)
    options.add_argument("--set", dest="overrides", action="append", default=[])
    options.add_argument(
        "--without-plain", action="store_true", help="leave out the reference"
    )
    options.add_argument(
        "--profile", action="store_true", help="name the kernels that take longest"
    )
    options.add_argument(
        "--only-plain",
        action="store_true",
        help="seconds a step of the reference, memory left to the C library",
    )
    arguments = options.parse_args()
    device = start(arguments, keep_memory=not arguments.only_plain)

    config = CondenseConfig.preset(arguments.preset)
    config = config.with_overrides([*arguments.overrides, *MIDST_OF_A_RUN])
    data, _, _ = load_splits(config, data_root=arguments.data_root)
    sampler, statistics = ClassSampler(data, device), data.statistics()
    spec = SynthesiserSpec.from_config(
        config.format,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        embedding_dim=EMBEDDING,
    )
    with seeded_initialisation(config.seed, "benchmark"):
        synthesiser = build_synthesiser(spec)
    rng = make_generator(config.seed, "benchmark-embedding")
    synthesiser.class_embedding.normal_(generator=rng)
    synthesiser.to(device)

    def prepared(kind, settings: CondenseConfig) -> LoopState:
        own = copy.deepcopy(synthesiser)
        return kind(settings, own, statistics, device=device)

    timed = math.ceil(LOG_EVERY / config.loop.generator_updates)
    updates = timed * config.loop.generator_updates

    def outer_iterations(state: LoopState, count: int = timed) -> None:
        """Of a state that may have done them before: its graphs are kept."""

        def stop_in_time(state: LoopState) -> None:
            if state.outer == count:
                raise EnoughError

        state.outer = 0
        log = RunLog(None, total=0, description="", progress=False)
        with compute_scope(state.config.compute, device), log, suppress(EnoughError):
            condense_loop(
                state,
                sampler=sampler,
                teacher=None,
                log=log,
                save=stop_in_time,
                probe=lambda _: 0.0,
            )

    def images_of(synthesiser: Synthesiser) -> torch.Tensor:
        everything = (
            torch.arange(n, device=device)
            for n in (spec.num_classes, spec.images_per_class)
        )
        with torch.no_grad(), compute_scope(config.compute, device):
            return synthesiser.train()(*everything)

    full = "tf32" if device.type == "cuda" else "fp32"
    again = config.with_overrides(
        ["loop.reuse_association=false", f"compute.precision={full}"]
    )
    if arguments.only_plain:
        state = prepared(PlainState, again)
        seconds = interleaved(
            {"plain": partial(outer_iterations, state)},
            rounds=arguments.rounds,
            device=device,
        )
        print(json.dumps(seconds["plain"] / updates))
        return

    uncaptured = config.with_overrides(["compute.compile=none"])  # to be counted once
    with FlopCounterMode(display=False) as counter:
        outer_iterations(prepared(LoopState, uncaptured))
    flops = counter.get_total_flops() / updates
    wait(device)
    memory = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    states = {"ours": prepared(LoopState, config)}
    if not arguments.without_plain:
        states["plain"] = prepared(PlainState, again)
    began, ended = images_of(copy.deepcopy(synthesiser)), {}
    for name, state in states.items():
        outer_iterations(state, 1)
        ended[name] = images_of(copy.deepcopy(state.synthesiser))
    seconds = interleaved(
        {name: partial(outer_iterations, state) for name, state in states.items()},
        rounds=arguments.rounds,
        device=device,
        warm=True,
    )
    step = seconds["ours"] / updates
    classes = config.loop.classes_per_step or spec.num_classes
    codes = config.loop.codes_per_step or spec.images_per_class
    plain = {}
    if "plain" in states:
        plain = {
            "plain_seconds_per_step": seconds["plain"] / updates,
            "ratio_plain_over_ours": seconds["plain"] / seconds["ours"],
            "mean_image_difference_to_plain": _distance(ended["ours"], ended["plain"]),
        }
        if device.type == "cpu":
            alone = _plain_alone()
            plain["plain_alone_seconds_per_step"] = alone
            plain["ratio_plain_alone_over_ours"] = alone / step
    rate = matrix_rate(device, config.compute)
    finish(
        arguments,
        device,
        {
            "reference": "plain.py: features of the association at every step, class "
            f"by class, augmented sample by sample, PyTorch's pooling, in {full}",
            "seconds_per_step": step,
            "steps_per_second": 1 / step,
            "synthetic_images_per_second": classes * codes / step,
            **plain,
            "peak_memory_bytes": memory,
            "flops_per_step": flops,
            "matrix_flops_per_second": rate,
            "share_of_floor": flops / rate / step,
            "mean_image_change": _distance(ended["ours"], began),
            "profile": profile(partial(outer_iterations, states["ours"]), device)
            if arguments.profile
            else None,
        },
    )


def _plain_alone() -> float:
    """Seconds a step of this command's reference in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only-plain"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout))


def _distance(images: torch.Tensor, others: torch.Tensor) -> float:
    return (images - others).abs().mean().item()


def profile(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Milliseconds of the kernels that take longest, and of all of them, by name."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        wait(device)
    kernels = {
        event.key: (event.self_device_time_total if cuda else event.self_cpu_time_total)
        / 1e3
        for event in profiler.key_averages()
    }
    longest = sorted(kernels, key=kernels.__getitem__, reverse=True)[:LISTED]
    return {"all": sum(kernels.values()), **{name: kernels[name] for name in longest}}


def matrix_rate(device: torch.device, compute: ComputeConfig) -> float:
    """FLOPs a second of a large matrix product, in the precision of a step."""
    bf16 = resolve_precision(compute.precision, device) == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    side = MATRIX if device.type == "cpu" else 4 * MATRIX
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in "lr")
    with compute_scope(compute, device):
        seconds = interleaved({"matrix": lambda: left @ right}, rounds=5, device=device)
    return 2 * side**3 / seconds["matrix"]


if __name__ == "__main__":
    main()
