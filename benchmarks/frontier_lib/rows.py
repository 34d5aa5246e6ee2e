"""The curves: what is stored, at several sizes, and what it is worth.

Shape legend: N images, C H W image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from image_files import decode, encode

from condense_core import CondenseConfig, CondensedDataset
from condense_core.artefact.compact import pack
from condense_core.config.presets import PRESETS, flips
from condense_core.coresets import select
from condense_core.data import ImageData
from condense_core.evaluate import evaluate
from condense_core.runs.run import condense
from condense_core.seeding import derive_seed
from frontier_lib.cells import Cell, Point, Setting

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Job:
    """A cell with its data and folders."""

    cell: Cell
    setting: Setting
    train: ImageData
    test: ImageData
    device: torch.device
    run: Path

    def point(self, curve: str, size: int, images: Any, **more: int) -> Point:
        """Evaluate a set that takes ``size`` bytes."""
        report = evaluate(
            images,
            self.test,
            recipe=self.setting.recipe,
            width=self.setting.width,
            repeats=self.setting.repeats,
            seed=self.cell.seed,
            device=self.device,
            flip=flips(self.cell.dataset),
            max_steps=self.setting.max_steps,
            statistics=self.train.statistics(),
        )
        return Point(
            curve=curve,
            bytes=size,
            images=report.images,
            accuracies=list(report.accuracies),
            **more,
        )

    def stored_as(self, kind: str, curve: str, data: ImageData) -> Point:
        """Evaluate images as they come out of one file a class."""
        size, parts, labels = 0, [], []
        for label in range(data.num_classes):
            content = encode(data.images[data.labels == label].cpu(), kind)
            size += len(content)
            parts.append(decode(content, kind, data.image_shape))
            labels.append(torch.full((len(parts[-1]),), label))
        whole = ImageData(
            images=torch.cat(parts),
            labels=torch.cat(labels),
            classes=data.classes,
            name=data.name,
        )
        return self.point(curve, size, whole)

    def config(self, *overrides: str, ipc: int) -> CondenseConfig:
        """The preset nearest to a number of images, and what the setting changes."""
        return CondenseConfig.preset(
            preset_of(self.cell.dataset, ipc, self.setting.scale)
        ).with_overrides(
            [
                f"format.images_per_class={ipc}",
                f"loop.codes_per_step={min(ipc, 10)}",
                "evaluate.probe_every=0",
                f"seed={self.cell.seed}",
                *overrides,
                *self.setting.overrides,
            ]
        )


def preset_of(dataset: str, ipc: int, scale: str) -> str:
    """Name of the preset nearest to a number of images per class."""
    near = min((1, 10, 50), key=lambda count: abs(count - ipc))
    if dataset == "digits":
        return "digits-ipc1" if near == 1 else "digits"
    name = f"{dataset}-ipc{near}" + ("-cpu" if scale == "cpu" else "")
    if name not in PRESETS:
        raise SystemExit(f"no preset for {dataset!r}: choose a data set by name")
    return name


def _real(job: Job) -> list[Point]:
    """Real images chosen by ``random`` or ``herding``, as PNG and as JPEG."""
    chosen = select(
        job.cell.row,
        job.train,
        job.cell.size,
        seed=derive_seed(job.cell.seed, "select", 0),
        network_width=job.setting.selection_width,
        max_steps=job.setting.selection_steps,
        statistics=job.train.statistics(),
        device=job.device,
    )
    return [job.stored_as(k, f"{job.cell.row}-{k}", chosen) for k in ("png", "jpeg")]


def _pixels(job: Job) -> list[Point]:
    config = job.config("format.kind=pixels", ipc=job.cell.size)
    condensed = condense(job.train, config, out=job.run, device=job.device)
    images, labels = condensed.images()
    data = ImageData(
        images=(images * 255).round().to(torch.uint8).cpu(),
        labels=labels.cpu(),
        classes=condensed.classes,
        name=job.train.name,
    )
    return [job.stored_as("png", "pixels", data)]


def _generator(job: Job) -> list[Point]:
    """One generator in three precisions; ``size`` is its width."""
    config = job.config(
        f"format.channels={job.cell.size}",
        "format.precision=fp32",
        ipc=job.setting.generator_ipc,
    )
    condensed = condense(job.train, config, out=job.run, device=job.device)
    return [_at(job, condensed, precision) for precision in PRECISIONS]


def _at(job: Job, condensed: CondensedDataset, precision: str) -> Point:
    rounded = CondensedDataset.from_synthesiser(
        condensed.synthesiser(job.device),
        classes=condensed.classes,
        statistics=condensed.statistics,
        precision=precision,
    )
    return job.point(
        f"generator-{precision}",
        len(pack(rounded)),
        rounded,
        file_bytes=rounded.nbytes,
    )


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        run: Measures a cell: one point a curve.
        sizes: Images a class, or channels of the generator.
    """

    run: Callable[[Job], list[Point]]
    sizes: tuple[int, ...]


IMAGES = (1, 2, 5, 10, 20, 50)
ROWS = {
    "random": Row(_real, IMAGES),
    "herding": Row(_real, IMAGES),
    "generator": Row(_generator, (4, 8, 16, 24, 32, 48)),
    "pixels": Row(_pixels, (1, 2, 5, 10, 20)),
}
CURVES = {
    "random-png": "random real images, PNG",
    "random-jpeg": "random real images, JPEG",
    "herding-png": "herded real images, PNG",
    "herding-jpeg": "herded real images, JPEG",
    "pixels": "condensed pixels, PNG",
    "generator-fp32": "generator, fp32",
    "generator-fp16": "generator, fp16",
    "generator-int8": "generator, int8",
}
