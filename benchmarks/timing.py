"""Timing shared by the speed benchmarks: interleaved, so that load hits all alike.

Every figure is a ratio to a named reference of the same run; seconds alone depend on
the machine and on what else it does.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from condense_core.compute.allocator import keep_freed_memory
from condense_core.compute.devices import resolve_device
from condense_core.runlog import atomic_write_text


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every speed benchmark has."""
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--device", default="auto")
    made.add_argument("--threads", type=int, help="of PyTorch on the CPU")
    made.add_argument("--rounds", type=int, default=5, help="of the interleaved ways")
    made.add_argument("--json", type=Path, help="also write the result to this file")
    return made


def start(arguments: argparse.Namespace, *, keep_memory: bool = True) -> torch.device:
    """The device, with the threads that were asked for; memory as programs keep it."""
    if keep_memory:
        keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    return resolve_device(arguments.device)


def interleaved(
    ways: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    device: torch.device,
    warm: bool = False,
) -> dict[str, float]:
    """Least seconds of every way; each round calls all of them once, in turn.

    The least, because all that other processes do comes on top of it.
    ``warm`` leaves out the first call of each, which is not timed.
    """
    for work in () if warm else ways.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            wait(device)
            begin = time.perf_counter()
            work()
            wait(device)
            seconds[name].append(time.perf_counter() - begin)
    return {name: min(values) for name, values in seconds.items()}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def finish(
    arguments: argparse.Namespace, device: torch.device, result: dict[str, Any]
) -> None:
    """Print the result as JSON, with the machine, and write it if asked to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    machine = {
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "platform": platform.platform(),
        "torch": torch.__version__,
    }
    # Said elsewhere, or the user's own.
    left_out = ("json", "threads", "data_root", "only_plain")
    options = {k: v for k, v in vars(arguments).items() if k not in left_out}
    content = {"options": options, **result, "machine": machine}
    text = json.dumps(content, indent=2, default=str)
    print(text)
    if arguments.json is not None:
        atomic_write_text(arguments.json, text + "\n")
