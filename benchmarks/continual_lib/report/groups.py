"""The files that `continual.py` wrote, grouped over the seeds."""

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual_lib.rows import DATASETS


@dataclass(frozen=True)
class Group:
    """The runs of one data set, row and budget, over the seeds."""

    dataset: str
    row: str
    mem_bytes: int | None
    runs: tuple[dict[str, Any], ...]

    def values(self, key: str) -> list[float]:
        return [run[key] for run in self.runs if run[key] is not None]

    @property
    def accuracy(self) -> float:
        return 100 * statistics.mean(self.values("accuracy"))

    @property
    def stored(self) -> float:
        return statistics.mean(self.values("stored_bytes"))


def read_groups(folder: Path) -> list[Group]:
    """Every JSON file below ``folder``, grouped over seeds.

    Raises:
        SystemExit: No files, or runs with different settings side by side.
    """
    found: dict[tuple[str, str, int | None], dict[int, dict]] = defaultdict(dict)
    settings: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*.json")):
        run = json.loads(path.read_text())
        first = settings.setdefault(run["dataset"], run["config"])
        if run["config"] != first:
            raise SystemExit(f"{path}: {run['config']}, but others have {first}")
        found[run["dataset"], run["row"], run["mem_bytes"]][run["seed"]] = run
    if not found:
        raise SystemExit(f"no results in {folder}")
    groups = [Group(*key, tuple(runs.values())) for key, runs in found.items()]
    order = list(DATASETS)
    return sorted(
        groups, key=lambda g: (order.index(g.dataset), g.mem_bytes or 0, g.accuracy)
    )
