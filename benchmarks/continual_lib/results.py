"""One JSON file for each run: its name, its settings, and resuming by its presence."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from condense_core.runlog import atomic_write_text
from continual_lib.rows import ROWS, key_of


@dataclass(frozen=True)
class Config:
    """What the numbers of one folder have in common; written into every file."""

    network: str
    epochs: int
    experiences: int = 5
    batch_size: int = 128
    lr: float = 1e-3
    limit: int | None = None  # training images a class, for quick tests
    vae_steps: int = 2000
    vae_latent: int = 8


@dataclass(frozen=True)
class Cell:
    """One run. ``mem_bytes`` is None for a row that takes no budget."""

    dataset: str
    row: str
    mem_bytes: int | None
    seed: int

    @property
    def file_name(self) -> str:
        budget = "any" if self.mem_bytes is None else self.mem_bytes
        return f"{self.dataset}_{self.row}_{budget}_seed{self.seed}.json"


def cells_of(
    dataset: str, rows: list[str], budgets: list[int], seeds: Iterable[int]
) -> list[Cell]:
    """All runs, seed by seed; a row that takes no budget is run once a seed."""
    return [
        Cell(dataset, row, budget, seed)
        for seed in seeds
        for row in rows
        for budget in (budgets if ROWS[key_of(row)].bounded else [None])
    ]


def is_done(path: Path, config: Config) -> bool:
    """Whether the cell was computed before.

    Raises:
        SystemExit: It was, but with other settings.
    """
    if not path.exists():
        return False
    settings = json.loads(path.read_text())["config"]
    if settings != asdict(config):
        sys.exit(f"{path} was made with {settings}: choose another --out")
    return True


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a file that is whole or not there."""
    atomic_write_text(path, json.dumps(result, indent=2) + "\n")
