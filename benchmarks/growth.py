"""What grows with classes, pixels and images per class: a generator against pixels.

For each size, one update of the loop of `imagenet64-ipc10` (at the widths given here,
with class-sampled steps and soft labels) in both formats: learnable parameters, numbers
stored, peak memory and time. Time is measured in turns, every size once in each round,
and given as the median; on a CPU as processor time of one thread, which other programs
disturb least. Memory is the peak over what the process held before the loop was built
(on a GPU: allocated by torch), each size in a process of its own.

    python benchmarks/growth.py --out docs/results/speed/growth.json
"""

import argparse
import gc
import json
import multiprocessing
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from condense_core import CondenseConfig
from condense_core.compute.devices import resolve_device
from condense_core.data import ImageData, PixelStatistics
from condense_core.data.class_sampler import ClassSampler
from condense_core.engine import condense_loop
from condense_core.loop_state import LoopState
from condense_core.networks import FeatureNetwork
from condense_core.runlog import RunLog, atomic_write_text
from condense_core.seeding import make_generator, seeded_initialisation
from condense_core.synthesiser import SynthesiserSpec, build_synthesiser
from condense_core.teacher import build_teacher, frozen
from condense_core.versions import library_versions

REAL_IMAGES = 4  # of each class; drawn with replacement, so their number is no matter


@dataclass(frozen=True)
class Point:
    """One size of one format."""

    format: str
    classes: int = 10
    size: int = 64
    ipc: int = 10

    def __str__(self) -> str:
        return f"{self.format} {self.classes} classes {self.size} px ipc {self.ipc}"


SWEEPS: dict[str, list[dict[str, int]]] = {
    "classes": [{"classes": n} for n in (10, 100, 1000)],
    "size": [{"size": n} for n in (32, 64, 128)],
    "ipc": [{"ipc": n} for n in (1, 10, 50)],
}
FORMATS = ("generator", "pixels")


def points() -> list[Point]:
    found = {
        Point(form, **sizes): None
        for form in FORMATS
        for sweep in SWEEPS.values()
        for sizes in sweep
    }
    return list(found)


class PauseError(Exception):
    """Leaves the loop after an outer iteration."""


class Stepper:
    """The loop of Algorithm 1 at one size, an update at a time."""

    def __init__(self, point: Point, options: argparse.Namespace) -> None:
        self.device = resolve_device(options.device)
        self.config = configured(point, options)
        self.data = synthetic(point, self.device)
        self.before = resident(self.device)
        self.sampler = ClassSampler(self.data, self.device)
        self.statistics = PixelStatistics((0.5,) * 3, (0.25,) * 3)
        teacher: FeatureNetwork = build_teacher(self.data, self.config)
        self.teacher = frozen(teacher.to(self.device))
        spec = SynthesiserSpec.from_config(
            self.config.format,
            image_shape=self.data.image_shape,
            num_classes=point.classes,
            embedding_dim=teacher.feature_dim,
        )
        with seeded_initialisation(0, "growth"):
            synthesiser = build_synthesiser(spec).to(self.device)
        synthesiser.class_embedding.normal_(generator=make_generator(0, "embedding"))
        self.state = LoopState(
            self.config, synthesiser, self.statistics, device=self.device
        )

    def step(self) -> float:
        """Seconds of one generator update, its association and its update of phi."""

        def stop(_: LoopState) -> None:
            raise PauseError

        log = RunLog(None, total=1, description="growth", progress=False)
        start = self.now()
        try:
            condense_loop(
                self.state,
                sampler=self.sampler,
                teacher=self.teacher,
                log=log,
                save=stop,
                probe=lambda _: 0.0,
            )
        except PauseError:
            return self.now() - start
        raise AssertionError("the loop ended")

    def now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def counts(self) -> dict[str, int]:
        synthesiser = self.state.synthesiser
        learnable = sum(p.numel() for p in synthesiser.parameters())
        stored = sum(v.numel() for v in synthesiser.state_dict().values())
        return {"learnable": learnable, "stored": stored}


def configured(point: Point, options: argparse.Namespace) -> CondenseConfig:
    width = options.width
    return CondenseConfig.preset("imagenet64-ipc10").with_overrides(
        [
            f"format.kind={point.format}",
            f"format.images_per_class={point.ipc}",
            f"format.channels={width}",
            f"network.width={width}",
            f"teacher.width={width}",
            f"loop.classes_per_step={options.classes_per_step}",
            f"loop.association={options.association}",
            f"loop.codes_per_step={min(10, point.ipc)}",
            f"loop.network_batch={options.classes_per_step * options.association}",
            "loop.generator_updates=1",
            "loop.network_updates=1000",
            "evaluate.probe_every=0",
        ]
    )


def synthetic(point: Point, device: torch.device) -> ImageData:
    shape = (point.classes * REAL_IMAGES, 3, point.size, point.size)
    rng = make_generator(0, "images")
    return ImageData(
        images=torch.randint(0, 256, shape, generator=rng).to(torch.uint8),
        labels=torch.arange(point.classes).repeat_interleave(REAL_IMAGES),
        classes=tuple(map(str, range(point.classes))),
    ).to(device)


def resident(device: torch.device) -> int:
    """Bytes held now; forgets earlier peaks."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("memory is measured on Linux only")


def measure_memory(point: Point, options: argparse.Namespace) -> int:
    """In this process: bytes that building the loop and two updates add at most."""
    stepper = Stepper(point, options)
    for _ in range(2):
        stepper.step()
    return peak(stepper.device) - stepper.before


def memory_of(point: Point, options: argparse.Namespace) -> int:
    """As `measure_memory`, in a process of its own."""
    context = multiprocessing.get_context("fork")  # nothing has used a GPU yet
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=lambda: sender.send(measure_memory(point, options))
    )
    process.start()
    sender.close()  # the other end is the child's: if it dies, recv says so
    found: int = receiver.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--classes-per-step", type=int, default=10)
    parser.add_argument("--association", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    rows: dict[Point, dict[str, Any]] = {}
    for point in points():
        rows[point] = {**asdict(point), "peak_bytes": memory_of(point, options)}
        print(f"{point}: {rows[point]['peak_bytes'] / 2**20:.0f} MiB", flush=True)
    steppers = {point: Stepper(point, options) for point in points()}
    seconds: dict[Point, list[float]] = {point: [] for point in steppers}
    for round_ in range(options.rounds + 1):
        for point, stepper in steppers.items():
            taken = stepper.step()
            if round_:  # the first warms up
                seconds[point].append(taken)
    for point, row in rows.items():
        row |= steppers[point].counts()
        row["seconds"] = statistics.median(seconds[point])
        row["seconds_all"] = seconds[point]
    content = {
        "reference": "the smallest size of the same format",
        "points": list(rows.values()),
        "growth": growth(rows),
        "options": {k: v for k, v in vars(options).items() if k != "out"},
        "device": str(resolve_device(options.device)),
        "threads": 1,
        "machine": platform.machine(),
        "versions": library_versions(),
    }
    print_table(content)
    if options.out is not None:
        atomic_write_text(options.out, json.dumps(content, indent=2) + "\n")


def growth(rows: dict[Point, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every measure at the largest size of a sweep over that at the smallest."""
    found = []
    for form in FORMATS:
        for name, sweep in SWEEPS.items():
            first, last = (rows[Point(form, **sweep[i])] for i in (0, -1))
            found.append(
                {
                    "format": form,
                    "sweep": f"{name} {first[name]} to {last[name]}",
                    **{
                        key: round(last[key] / first[key], 3)
                        for key in ("learnable", "stored", "peak_bytes", "seconds")
                    },
                }
            )
    return found


def print_table(content: dict[str, Any]) -> None:
    print(f"{'':34}{'learnable':>12}{'stored':>12}{'peak MiB':>10}{'s a step':>10}")
    for row in content["points"]:
        point = Point(**{k: row[k] for k in ("format", "classes", "size", "ipc")})
        print(
            f"{point!s:34}{row['learnable']:>12,}{row['stored']:>12,}"
            f"{row['peak_bytes'] / 2**20:>10.0f}{row['seconds']:>10.3f}"
        )
    for row in content["growth"]:
        print(
            f"{row['format']:10} {row['sweep']:22} learnable x{row['learnable']:g}, "
            f"stored x{row['stored']:g}, memory x{row['peak_bytes']:g}, time "
            f"x{row['seconds']:g}"
        )


if __name__ == "__main__":
    main()
