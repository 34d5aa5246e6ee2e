"""One JSON file a cell: writing, reading, and how long the next ones may take."""

import json
import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from condense_core.config import CondenseConfig
from condense_core.errors import ConfigError
from condense_core.runlog import atomic_write_text
from condense_core.training import RECIPES, planned_steps
from paper_lib.commands import CPU_FULL, Setting, repeats_of
from paper_lib.grid import Cell

CLASSES = {"cifar100": 100}  # 10 elsewhere
SIZES = {  # training images
    "cifar10": 50_000,
    "cifar100": 50_000,
    "digits": 1_437,
    "fashionmnist": 60_000,
    "mnist": 60_000,
    "svhn": 73_257,
}
# Of a configuration: what no condensed set depends on.
BESIDE = ("evaluate", "time_budget")
# A guess until the first cell is done: of a training step, for each of its images.
SECONDS_AN_IMAGE = {"cpu": 1e-2, "full": 5e-5}
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
    if Setting(**{**found, "overrides": tuple(found["overrides"])}) != setting:
        wanted = asdict(setting)
        sys.exit(f"{path} was made with {found}, not {wanted}: choose another --out")
    return True


def read_results(folder: Path) -> list[Result]:
    """Every finished cell below a folder."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def condensed_with(run: Path) -> dict[str, Any] | None:
    """The configuration of a run directory, less what no condensed set depends on.

    None where there is no run, as for real images.
    """
    path = run / "config.yaml"
    return _condensing(CondenseConfig.from_yaml(path)) if path.exists() else None


def configuration_of(command: Sequence[str]) -> dict[str, Any]:
    """As `condensed_with`, of a ``condense run`` with its preset as it is now.

    Args:
        command: ``run PRESET --set KEY=VALUE ...``, with or without ``condense``.

    Raises:
        ConfigError: There is no such preset or option any more.
    """
    words = list(command)
    preset = words[words.index("run") + 1]
    sets = [after for word, after in pairwise(words) if word == "--set"]
    return _condensing(CondenseConfig.preset(preset).with_overrides(sets))


def _condensing(config: CondenseConfig) -> dict[str, Any]:
    return {k: v for k, v in config.to_dict().items() if k not in BESIDE}


def is_outdated(result: Result) -> bool:
    """Whether the printed command condenses otherwise by now: its preset has changed.

    Options that came later do not count. Of a result that does not say what it was
    condensed with, as that of real images, nothing is known.
    """
    recorded = result.get("configuration")
    if recorded is None:
        return False
    try:
        now = configuration_of(shlex.split(result["commands"][0]))
    except ConfigError:
        return True
    return any(now.get(section) != _known(now, section, recorded) for section in now)


def _known(now: dict[str, Any], section: str, recorded: dict[str, Any]) -> Any:
    """A section as recorded; what the record does not know is as it is at present."""
    if section not in recorded:
        return now[section]
    found = recorded[section]
    return {**now[section], **found} if isinstance(found, dict) else found


def evaluate_seconds(cell: Cell, setting: Setting, done: Iterable[Result]) -> float:
    """Time to evaluate a cell, by the images that its networks are trained on.

    Args:
        cell: The cell.
        setting: Of the cell.
        done: Finished cells, whose rates are those of this machine.
    """
    rates = [
        (_distance(cell, result), result["seconds_evaluating"] / _work(result))
        for result in done
        if result["cell"]["column"]["network"] == cell.column.network
    ]
    guess = SECONDS_AN_IMAGE[setting.scale] * setting.width / Setting.width
    rate = min(rates)[1] if rates else guess
    return rate * _planned_work(cell, setting)


def _planned_work(cell: Cell, setting: Setting) -> int:
    dataset, recipe = cell.column.dataset, RECIPES[cell.recipe]
    images, cap = cell.column.ipc * CLASSES.get(dataset, 10), None
    if cell.row == "full":
        images = SIZES[dataset]
        cap = int(CPU_FULL[1]) if setting.scale == "cpu" else None
    steps = planned_steps(images, recipe, cap)
    return repeats_of(cell, setting) * steps * min(images, recipe.batch_size)


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
