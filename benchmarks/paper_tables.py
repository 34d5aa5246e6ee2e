"""The paper's tables and ablations, cell by cell, in the order of what they are worth.

One JSON file a cell; a cell that has one is not run again, and what the time cut short
goes on: repeat the command until nothing is missing. Each cell prints the commands that
make it alone.

    python benchmarks/paper_tables.py --time-budget 600 --data-root DATA \
        --out runs/paper
    python benchmarks/paper_report.py runs/paper --out docs/results.md
"""

import argparse
import sys
from fnmatch import fnmatch
from pathlib import Path

from paper_lib.commands import (
    Place,
    Setting,
    condense_command,
    evaluate_command,
    shown,
)
from paper_lib.grid import GENERATED, RECIPES, Cell, cells_in_order
from paper_lib.queue import run_cells
from paper_lib.results import is_done

from condense_core.compute.allocator import keep_freed_memory
from condense_core.compute.devices import resolve_device
from condense_core.errors import CondenseError

REPEATS = {"cpu": 5, "full": 20}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument(
        "--time-budget", type=float, default=600.0, help="seconds (default: 600)"
    )
    parser.add_argument("--data-root", type=Path, help="of data sets by name")
    parser.add_argument(
        "--npz",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="read a data set from an npz folder instead; may be repeated",
    )
    parser.add_argument(
        "--generated", type=Path, help="folder CLASS/*.png, a row of Table 4"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--scale",
        choices=REPEATS,
        help="presets: cpu for minutes, full for a GPU (default: by device)",
    )
    parser.add_argument("--only", default="*", help="names of cells, as 'cifar10_*'")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--repeats", type=int, help="default: 5 or 20, by scale")
    parser.add_argument("--width", type=int, default=Setting.width)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="of every condensation, as to shorten it; may be repeated",
    )
    parser.add_argument(
        "--note", default="", help="printed with every cell, as that data are a part"
    )
    parser.add_argument(
        "--list", action="store_true", help="print cells and commands, run nothing"
    )
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    keep_freed_memory()
    try:
        device = resolve_device(arguments.device)
    except CondenseError as error:
        sys.exit(str(error))
    if any(text.startswith("time_budget=") for text in arguments.overrides):
        sys.exit("time_budget makes cells of other lengths: use --time-budget")
    scale = arguments.scale or ("full" if device.type == "cuda" else "cpu")
    setting = Setting(
        scale=scale,
        repeats=arguments.repeats or REPEATS[scale],
        width=arguments.width,
        overrides=tuple(arguments.overrides),
        seed=arguments.seed,
        note=arguments.note,
    )
    place = Place(
        out=arguments.out,
        device=arguments.device,
        data_root=arguments.data_root,
        npz=_folders(arguments.npz),
        generated=arguments.generated,
    )
    recipes = tuple(arguments.recipes.split(","))
    if unknown := set(recipes) - set(RECIPES):
        sys.exit(f"unknown recipe {unknown.pop()!r}: choose from {', '.join(RECIPES)}")
    cells = [
        cell
        for cell in cells_in_order(recipes)
        if fnmatch(cell.name, arguments.only)
        and (cell.row != GENERATED or arguments.generated is not None)
    ]
    if not cells:
        sys.exit(f"no cell is called {arguments.only!r}: see --list")
    if arguments.list:
        for cell in cells:
            _show(cell, setting, place)
        return 0
    failed = run_cells(cells, setting, place, budget=arguments.time_budget)
    missing = sum(not is_done(place.file_of(cell, setting), setting) for cell in cells)
    print(f"{len(cells) - missing} of {len(cells)} cells are in {place.out}")
    return 1 if failed else 0


def _folders(assignments: list[str]) -> dict[str, Path]:
    folders = {}
    for text in assignments:
        name, separator, folder = text.partition("=")
        if not separator:
            sys.exit(f"--npz {text!r} has no '=': write NAME=FOLDER")
        folders[name] = Path(folder)
    return folders


def _show(cell: Cell, setting: Setting, place: Place) -> None:
    state = "done" if is_done(place.file_of(cell, setting), setting) else "missing"
    print(f"{cell.name} ({state})")
    for command in (
        condense_command(cell, setting, place),
        evaluate_command(cell, setting, place),
    ):
        if command is not None:
            print(f"  {shown(command)}")


if __name__ == "__main__":
    sys.exit(main())
