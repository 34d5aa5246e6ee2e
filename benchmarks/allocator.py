"""A training step of the ConvNet with and without `keep_freed_memory`, on the CPU.

The setting is one of a whole process, so that each way is a process of its own; they
take turns.

    python benchmarks/allocator.py --threads 1
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from timing import finish, parser

from condense_core.compute.allocator import keep_freed_memory
from condense_core.networks import build_network

WAYS = ("default", "kept")
STEPS = 8


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--way", choices=WAYS, help="of a process of the benchmark")
    arguments = options.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.way:
        print(json.dumps(measure(arguments)))
        return
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way in WAYS:
            command = [sys.executable, *sys.argv, "--way", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[way].append(json.loads(done.stdout))
    best = {
        way: {
            f"width {width}": min(run["seconds"][i] for run in of_way)
            for i, width in enumerate(arguments.widths)
        }
        for way, of_way in runs.items()
    }
    result = {
        "reference": "the C library's default",
        "seconds_per_step": best,
        "ratio_default_over_kept": {
            key: best["default"][key] / best["kept"][key] for key in best["kept"]
        },
        "peak_memory_bytes": {
            way: min(run["peak"] for run in of_way) for way, of_way in runs.items()
        },
    }
    finish(arguments, torch.device("cpu"), result)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Least seconds of a step at each width, and the peak of resident memory."""
    if arguments.way == "kept":
        keep_freed_memory()
    images = torch.randn(arguments.batch, 1, 28, 28)
    seconds = []
    for width in arguments.widths:
        network = build_network(
            "convnet", image_shape=(1, 28, 28), num_classes=10, width=width, seed=0
        )
        taken = []
        for _ in range(STEPS):
            begin = time.perf_counter()
            network(images).logsumexp(dim=1).sum().backward()
            taken.append(time.perf_counter() - begin)
        seconds.append(min(taken[1:]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak}


if __name__ == "__main__":
    main()
