"""Table of the files that `one_client.py` wrote."""

import json
import statistics
from pathlib import Path
from typing import Any


def one_client_table(folder: Path) -> str:
    """Markdown: one table for each data set, from the worst setting to the best.

    Raises:
        SystemExit: No files.
    """
    runs = [
        (path.name.split("_")[0], json.loads(path.read_text()))
        for path in sorted(folder.glob("*.json"))
    ]
    if not runs:
        raise SystemExit(f"no results in {folder}")
    parts = []
    for dataset in dict.fromkeys(name for name, _ in runs):
        mine = [run for name, run in runs if name == dataset]
        mine.sort(key=lambda run: statistics.mean(run["accuracies"]))
        parts += [
            f"\n### {dataset}, one client\n",
            f"{mine[0]['client_images']:,} images; accuracy on "
            f"{mine[0]['held_out_images']:,} training images held out, mean ± sample "
            "standard deviation over networks. Settings are changes of the preset.\n",
            "| the server trains on | accuracy, % | bytes | seconds | networks |",
            "|---|---:|---:|---:|---:|",
            *map(_line, mine),
        ]
    return "\n".join(parts) + "\n"


def _line(run: dict[str, Any]) -> str:
    found = run["accuracies"]
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    what = f"`{run['overrides']}`" if run["overrides"] else "a generator, as preset"
    seconds = f"{run['seconds_condensing']:.0f}"
    if run["row"] == "images":
        what, seconds = "the client's images", "–"
    cells = (
        what,
        f"{statistics.mean(found):.1f}{spread}",
        f"{run['bytes']:,}",
        seconds,
        f"{len(found)}",
    )
    return f"| {' | '.join(cells)} |"
