"""Accuracy against stored bytes: generator, condensed pixels, real images.

Real images are one PNG or JPEG file a class, encoded by Pillow; condensed pixels are
PNG; a generator is packed (`condense_core.artefact.compact`) in fp32, fp16 and int8, at
several widths. One JSON file for each data set, row, size and seed; one that exists is
not made again.

    python benchmarks/frontier.py --dataset mnist --data-root DATA --out runs/frontier
    python benchmarks/frontier_report.py runs/frontier \
        --out-table docs/frontier-results.md --out-plot docs/images/frontier.png
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from frontier_lib.cells import Cell, Setting, is_done, save
from frontier_lib.rows import ROWS, Job

from condense_core.compute.allocator import keep_freed_memory
from condense_core.compute.devices import resolve_device
from condense_core.config import CondenseConfig
from condense_core.data.sources import load_source
from condense_core.errors import CondenseError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument(
        "--npz", action="store_true", help="it is train.npz and test.npz in DATA_ROOT"
    )
    parser.add_argument("--note", default="", help="on the images, for the table")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--sizes", default="", help="images per class, or channels")
    parser.add_argument("--ipc", type=int, default=10, help="of the generator")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipe", default=Setting.recipe)
    parser.add_argument("--repeats", type=int, default=Setting.repeats)
    parser.add_argument("--width", type=int, default=Setting.width)
    parser.add_argument("--max-steps", type=int, help="of an evaluation network")
    parser.add_argument("--scale", choices=("cpu", "full"), help="default: by device")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    rows = arguments.rows.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        sys.exit(f"unknown row {unknown[0]!r}: choose from {', '.join(ROWS)}")
    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        device = resolve_device(arguments.device)
        name = "npz" if arguments.npz else arguments.dataset
        train, test = (
            load_source(name, split=split, data_root=arguments.data_root)
            for split in ("train", "test")
        )
    except CondenseError as error:
        sys.exit(str(error))
    setting = Setting(
        recipe=arguments.recipe,
        repeats=arguments.repeats,
        width=arguments.width,
        max_steps=arguments.max_steps,
        scale=arguments.scale or ("full" if device.type == "cuda" else "cpu"),
        generator_ipc=arguments.ipc,
        overrides=tuple(arguments.overrides),
    )
    chosen = [int(text) for text in arguments.sizes.split(",") if text]
    cells = [
        Cell(dataset=arguments.dataset, row=row, size=size, seed=seed)
        for seed in range(arguments.seeds)
        for row in rows
        for size in (chosen or ROWS[row].sizes)
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        path = arguments.out / f"{cell.name}.json"
        if is_done(path, setting):
            continue
        started = time.perf_counter()
        run = arguments.out / "runs" / cell.name
        points = ROWS[cell.row].run(Job(cell, setting, train, test, device, run))
        seconds = time.perf_counter() - started
        made = run / "config.yaml"
        config = CondenseConfig.from_yaml(made).to_dict() if made.exists() else None
        save(path, cell, setting, points, seconds, arguments.note, config)
        for point in points:
            mean = sum(point.accuracies) / len(point.accuracies)
            print(
                f"{point.curve:16} size {cell.size:3} seed {cell.seed} "
                f"{point.bytes:>10,} bytes {mean:6.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
