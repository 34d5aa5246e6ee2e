"""One JSON file a cell: writing, reading, and how long the next ones may take."""

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from condense_core.runlog import atomic_write_text
from condense_core.training import RECIPES, planned_steps
from paper_lib.commands import Setting
from paper_lib.grid import Cell

CLASSES = {"cifar100": 100}  # 10 elsewhere
Result = dict[str, Any]


def save(path: Path, cell: Cell, setting: Setting, **content: Any) -> None:
    """Write a file that is whole or not there."""
    whole = {"cell": asdict(cell), "setting": asdict(setting), **content}
    atomic_write_text(path, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def is_done(path: Path, setting: Setting) -> bool:
    """Whether a cell was measured before.

    Raises:
        SystemExit: It was, but with another setting.
    """
    if not path.exists():
        return False
    found = json.loads(path.read_text())["setting"]
    wanted = json.loads(json.dumps(asdict(setting)))
    if found != wanted:
        sys.exit(f"{path} was made with {found}, not {wanted}: choose another --out")
    return True


def read_results(folder: Path) -> list[Result]:
    """Every finished cell below a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def evaluate_seconds(
    cell: Cell, setting: Setting, done: Iterable[Result]
) -> float | None:
    """Time to evaluate a cell, by the images it trains on; None if not known."""
    rates = [
        (_distance(cell, result), result["seconds_evaluating"] / _work(result))
        for result in done
        if result["cell"]["column"]["network"] == cell.column.network
    ]
    if not rates:
        return None
    # What is not known before (the whole data set) is taken from its own kind alone.
    if cell.row == "full":
        own = [r["seconds_evaluating"] for r in done if r["cell"]["row"] == "full"]
        return max(own, default=None)
    images = cell.column.ipc * CLASSES.get(cell.column.dataset, 10)
    recipe = RECIPES[cell.recipe]
    steps = planned_steps(images, recipe)
    return min(rates)[1] * setting.repeats * steps * min(images, recipe.batch_size)


def _work(result: Result) -> float:
    """Images that all networks of an evaluation were trained on, in all steps."""
    report = result["report"]
    batch = report["recipe_settings"]["batch_size"]
    return report["repeats"] * report["steps"] * min(batch, report["images"])


def _distance(cell: Cell, result: Result) -> float:
    """How unlike a finished cell is: in images above all, then in data."""
    other = result["cell"]
    images = abs(math.log(cell.column.ipc / other["column"]["ipc"]))
    return (
        images
        + (cell.column.dataset != other["column"]["dataset"])
        + 0.1 * (cell.row != other["row"])
        + 0.1 * (cell.recipe != other["recipe"])
    )
