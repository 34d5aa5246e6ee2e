"""Does the 64 px preset, scaled down, beat random images? On a real many-class set.

Condenses with `imagenet64-ipc1-cpu` and the settings given, then trains networks on the
condensed set and on as many random real images, under the same recipe and seed, and
tests both on the same test images, once. Writes JSON.

    python benchmarks/imagenet64.py --data-root DIR --set loop.restarts=1 --out out.json
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch

from condense_core import CondenseConfig, condense, evaluate
from condense_core.compute.allocator import keep_freed_memory
from condense_core.compute.devices import resolve_device
from condense_core.references import evaluate_reference
from condense_core.runlog import atomic_write_text
from condense_core.runs.experiment import load_splits
from condense_core.versions import library_versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="imagenet64-ipc1-cpu")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", type=Path, help="run directory, to resume")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()

    config = CondenseConfig.preset(arguments.preset).with_overrides(arguments.overrides)
    train, test, _ = load_splits(config, data_root=arguments.data_root)
    start, busy = time.perf_counter(), time.process_time()
    condensed = condense(train, config, out=arguments.run, device=arguments.device)
    seconds = {
        "condensing": time.perf_counter() - start,
        "condensing_processor": time.process_time() - busy,
    }
    settings: dict[str, Any] = {
        "recipe": config.evaluate.recipe,
        "network": config.evaluate.network,
        "width": config.evaluate.width,
        "repeats": arguments.repeats,
        "seed": config.seed,
        "statistics": train.statistics(),
        "device": resolve_device(arguments.device),
    }
    rows = {
        "condensed": evaluate(condensed, test, **settings),
        "random": evaluate_reference(
            "random",
            train,
            test,
            images_per_class=config.format.images_per_class,
            **settings,
        ),
    }
    for name, report in rows.items():
        print(
            f"{name}: {report.accuracy_mean:.2f} ± {report.accuracy_std:.2f} % "
            f"({report.repeats} x {report.network} of width {report.width}, "
            f"{report.recipe}, {report.images} images, {report.bytes:,} bytes)"
        )
    content = {
        "preset": arguments.preset,
        "overrides": arguments.overrides,
        "classes": train.num_classes,
        "training_images": len(train),
        "test_images": len(test),
        "updates": config.loop.total,
        "seconds": seconds,
        "rows": {name: report.to_dict() for name, report in rows.items()},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": library_versions(),
    }
    if arguments.out is not None:
        atomic_write_text(arguments.out, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
