"""What the curves have in common, their cells, and one JSON file for each."""

import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from condense_core.runlog import atomic_write_text
from condense_core.versions import library_versions


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The same for all cells of a folder; written into every file."""

    recipe: str = "dsa-1000"
    repeats: int = 3
    width: int = 128
    max_steps: int | None = None
    scale: str = "cpu"
    generator_ipc: int = 10
    selection_width: int = 32
    selection_steps: int = 1000
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a row at one size."""

    dataset: str
    row: str
    size: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file and its run directory."""
        return f"{self.dataset}_{self.row}_{self.size}_seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a curve.

    Attributes:
        curve: Its curve.
        bytes: What has to be stored to have the images again.
        images: Images it gives.
        accuracies: Of the networks, in percent.
        file_bytes: Of the artefact file of a generator, which describes itself.
    """

    curve: str
    bytes: int
    images: int
    accuracies: list[float]
    file_bytes: int | None = None


def is_done(path: Path, setting: Setting) -> bool:
    """Whether a cell was measured before.

    Raises:
        SystemExit: It was, but with another setting.
    """
    if not path.exists():
        return False
    found = json.loads(path.read_text())["setting"]
    if found != json.loads(json.dumps(asdict(setting))):
        sys.exit(f"{path} was made with {found}: choose another --out")
    return True


def save(
    path: Path,
    cell: Cell,
    setting: Setting,
    points: list[Point],
    seconds: float,
    note: str = "",
    configuration: dict[str, Any] | None = None,
) -> None:
    """Write a file that is whole or not there.

    ``configuration`` is what was condensed with, None for real images.
    """
    content = {
        **asdict(cell),
        "setting": asdict(setting),
        "points": [asdict(point) for point in points],
        "note": note,
        "configuration": configuration,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": library_versions(),
    }
    atomic_write_text(path, json.dumps(content, indent=2) + "\n")
