"""Whether ImageNet's size fits: 1000 classes, 1.28 million images, bounded memory.

Makes a synthetic set (a pattern for each class, and noise), writes it through the cache
of image sets, trains a teacher, condenses for some updates and evaluates. Prints the
peak resident memory of every phase; time and accuracy are by the way. The full size
needs 15.7 GB of disk in --scratch, deleted at the end.

    python benchmarks/million.py --scratch /tmp/million \
        --out docs/results/speed/million.json
"""

import argparse
import json
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from condense_core import CondenseConfig, condense, evaluate
from condense_core.data import ImageData
from condense_core.data.cache import Part, Plan, open_cache
from condense_core.runlog import atomic_write_text
from condense_core.seeding import make_generator
from condense_core.teacher import train_teacher_file
from condense_core.versions import library_versions

LIMIT_GB = 8.0
PART = 4096  # images written together
OVERRIDES = [
    "loss.soft_labels=true",
    "loss.unrolled=0",
    "optimiser.name=adam",
    "teacher.mean_images=4",
    "pretrain.targets=images",
    "pretrain.steps=20",
    "pretrain.batch_size=64",
    "loop.restarts=1",
    "loop.generator_updates=5",
    "loop.classes_per_step=10",
    "loop.association=16",
    "evaluate.probe_every=0",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scratch", type=Path, required=True, help="folder, deleted")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--each", type=int, default=1280, help="images of a class")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--updates", type=int, default=50, help="of the generator")
    parser.add_argument("--teacher-steps", type=int, default=20)
    parser.add_argument("--evaluation-steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    shape = (3, arguments.size, arguments.size)
    teacher = arguments.scratch / "teacher.safetensors"
    config = CondenseConfig.preset("imagenet64-ipc1-cpu").with_overrides(
        [
            *OVERRIDES,
            f"teacher.path={teacher}",
            f"teacher.steps={arguments.teacher_steps}",
            f"loop.network_updates={max(1, arguments.updates // 5)}",
        ]
    )
    phases: list[dict[str, Any]] = []
    try:
        with phase("cache", phases):
            train = synthetic(arguments, arguments.each, "train", shape)
            test = synthetic(arguments, 5, "test", shape)
        with phase("open again", phases):
            again = synthetic(arguments, arguments.each, "train", shape)
            assert again.fingerprint() == train.fingerprint()
            train.statistics()
        with phase("teacher", phases):
            train_teacher_file(teacher, train, config, device=torch.device("cpu"))
        with phase("condense", phases):
            out = arguments.scratch / "run"
            condensed = condense(train, config, out=out, device="cpu")
        with phase("evaluate", phases):
            report = evaluate(
                condensed,
                test,
                width=32,
                repeats=1,
                max_steps=arguments.evaluation_steps,
                device="cpu",
            )
    finally:
        shutil.rmtree(arguments.scratch, ignore_errors=True)
    peak = max(row["peak_gb"] for row in phases)
    content = {
        "classes": arguments.classes,
        "images": len(train),
        "image_shape": list(shape),
        "set_gb": round(train.images.nbytes / 1e9, 2),
        "updates": config.loop.total,
        "overrides": OVERRIDES,
        "phases": phases,
        "peak_gb": peak,
        "limit_gb": LIMIT_GB,
        "bytes": condensed.nbytes,
        "accuracy": report.accuracy_mean,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": library_versions(),
    }
    print(json.dumps(content, indent=2))
    if arguments.out is not None:
        atomic_write_text(arguments.out, json.dumps(content, indent=2) + "\n")
    if peak > LIMIT_GB:
        raise SystemExit(f"peak resident memory {peak} GB is above {LIMIT_GB} GB")


def synthetic(
    arguments: argparse.Namespace, each: int, split: str, shape: tuple[int, int, int]
) -> ImageData:
    """A pattern for each class, half hidden in noise, through the cache."""
    count, values = arguments.classes * each, shape[0] * shape[1] * shape[2]
    rng = make_generator(0, "million", split)
    bank = torch.randint(0, 128, (PART * values * 2,), generator=rng).to(torch.uint8)
    pattern = torch.randint(
        0, 128, (arguments.classes, 3, 4, 4), generator=make_generator(0, "pattern")
    ).to(torch.uint8)
    times = shape[1] // 4
    pattern = pattern.repeat_interleave(times, 2).repeat_interleave(times, 3)

    def parts(start: int) -> Iterator[Part]:
        for first in range(start * PART, count, PART):
            labels = torch.arange(first, min(first + PART, count)) // each
            shift = int(torch.randint(len(bank) // 2, (), generator=rng))
            noise = bank[shift : shift + len(labels) * values].view(-1, *shape)
            yield Part(noise + pattern[labels], labels)

    plan = Plan(
        split=split,
        root=arguments.scratch,
        source=[f"synthetic {each}"],
        classes=tuple(f"c{label:04}" for label in range(arguments.classes)),
        image_shape=shape,
        images=count,
        parts=parts,
    )
    return open_cache(arguments.scratch / "cache", plan, name="synthetic")


@contextmanager
def phase(name: str, phases: list[dict[str, Any]]) -> Iterator[None]:
    """Measure seconds and peak resident memory of what happens inside (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    start = time.perf_counter()
    yield
    status = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
    )
    kib = {key: int(status[key].split()[0]) for key in ("VmHWM", "RssAnon")}
    gb = {key: round(value * 1024 / 1e9, 2) for key, value in kib.items()}
    row = {
        "phase": name,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gb": gb["VmHWM"],
        "private_gb_at_end": gb["RssAnon"],
    }
    phases.append(row)
    print(row, flush=True)


if __name__ == "__main__":
    main()
