"""Table and plot of the files that `federated.py` wrote."""

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federated_lib.rows import ROWS, VARIANTS

COLUMNS = 3  # of the plot
SHOWN_ROUNDS = (1, 2, 5, 10, 20, 50)
HEAD = (
    "| row | rounds | a client may send | accuracy, % | bytes up | bytes down "
    "| seconds a client | seeds |\n|---|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Line:
    """One line of the table: a row after some rounds, over the seeds."""

    dataset: str
    partition: str
    row: str
    budget: int
    rounds: int
    accuracies: tuple[float, ...]
    bytes_up: float
    bytes_down: float
    client_seconds: float | None
    smoothing: float | None = None

    @property
    def accuracy(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float:
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def read_lines(folder: Path) -> list[Line]:
    """Every JSON file below ``folder``, grouped over seeds.

    Raises:
        SystemExit: No files, or runs with different settings side by side.
    """
    found: dict[tuple, list[tuple[dict, dict[str, Any]]]] = defaultdict(list)
    settings: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.json")):
        run = json.loads(path.read_text())
        first = settings.setdefault(run["dataset"], run["setting"])
        if run["setting"] != first:
            raise SystemExit(f"{path}: {run['setting']}, but others have {first}")
        smoothing = _smoothing(run)
        last = run["points"][-1]["rounds"]
        for point in run["points"]:
            if point["rounds"] in SHOWN_ROUNDS or point["rounds"] == last:
                key = (run["dataset"], run["partition"], run["row"])
                key = (*key, run["upload_bytes"], point["rounds"], smoothing)
                found[key].append((point, run))
    if not found:
        raise SystemExit(f"no results in {folder}")
    lines = [_line(key, runs) for key, runs in found.items()]
    order = list(ROWS)
    return sorted(
        lines,
        key=lambda n: (
            n.dataset,
            n.partition,
            order.index(n.row),
            n.budget,
            n.rounds,
        ),
    )


def _smoothing(run: dict[str, Any]) -> float | None:
    """Of the labels a server trains with; None for rows whose clients train.

    Files from before it was an option say nothing of the server.
    """
    if not ROWS[run["row"]].served:
        return None
    smoothing: float = run.get("server", {}).get("label_smoothing", 0.0)
    return smoothing


def _line(key: tuple, runs: list[tuple[dict, dict[str, Any]]]) -> Line:
    seconds = [
        statistics.mean(run["client_seconds"]) * point["rounds"] / _rounds(run)
        for point, run in runs
        if run["client_seconds"]
    ]
    *key, smoothing = key
    return Line(
        *key,
        smoothing=smoothing,
        accuracies=tuple(point["accuracy"] for point, _ in runs),
        bytes_up=statistics.mean(point["bytes_up"] for point, _ in runs),
        bytes_down=statistics.mean(point["bytes_down"] for point, _ in runs),
        client_seconds=statistics.mean(seconds) if seconds else None,
    )


def _rounds(run: dict[str, Any]) -> int:
    return run["points"][-1]["rounds"]


def table(lines: list[Line]) -> str:
    """Markdown: one table for each data set and partition."""
    parts = [
        "<!-- written by benchmarks/federated_report.py; do not edit -->\n",
        "Mean ± sample standard deviation over seeds (partition, initialisation, "
        "batches). Bytes are those of all clients together. A server trains with "
        "smoothed labels unless the row says otherwise.\n",
    ]
    for dataset, partition in dict.fromkeys((n.dataset, n.partition) for n in lines):
        parts.append(f"### {dataset}, {partition}\n")
        parts.append(HEAD)
        parts += [
            _text(line)
            for line in lines
            if (line.dataset, line.partition) == (dataset, partition)
        ]
        parts.append("")
    return "\n".join(parts)


def _text(line: Line) -> str:
    spread = f" ± {line.deviation:.1f}" if len(line.accuracies) > 1 else ""
    seconds = "–" if line.client_seconds is None else f"{line.client_seconds:.0f}"
    budget = f"{line.budget:,}" if line.budget else "–"
    hard = ", hard labels" if line.smoothing == 0 else ""
    cells = (
        ROWS[line.row].label + hard,
        f"{line.rounds}",
        budget,
        f"{line.accuracy:.1f}{spread}",
        f"{line.bytes_up:,.0f}",
        f"{line.bytes_down:,.0f}",
        seconds,
        f"{len(line.accuracies)}",
    )
    return f"| {' | '.join(cells)} |"


def _colours(rows: list[str]) -> dict[str, Any]:
    """Ours in shades of red, from the darkest; the rest in what is left."""
    from matplotlib import colormaps

    ours = [row for row in rows if row.startswith("ours")]
    others = [row for row in rows if row not in ours]
    shades = colormaps["Reds_r"].resampled(len(ours) + 2)
    pairs = colormaps["tab20"].colors
    kinds = [*pairs[:6], *pairs[8:]]  # without the reds
    return {
        **{row: shades(i) for i, row in enumerate(ours)},
        **{row: kinds[i % len(kinds)] for i, row in enumerate(others)},
    }


def plot(lines: list[Line], path: Path) -> None:
    """Accuracy against all bytes sent, one panel a data set and partition."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((n.dataset, n.partition) for n in lines))
    there = {n.row for n in lines} - VARIANTS.keys()
    rows = [row for row in ROWS if row in there]
    colours = _colours(rows)
    down = math.ceil(len(panels) / COLUMNS)
    across = min(COLUMNS, len(panels))
    figure, axes = pyplot.subplots(
        down,
        across,
        figsize=(3 + 4.5 * across, 4 * down),
        sharex=True,  # bytes are to be compared between panels
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        mine = [n for n in lines if (n.dataset, n.partition) == panel]
        for row in rows:
            points = sorted(
                (n for n in mine if n.row == row),
                key=lambda n: n.bytes_up + n.bytes_down,
            )
            if points:
                handles[row] = axis.errorbar(
                    [n.bytes_up + n.bytes_down for n in points],
                    [n.accuracy for n in points],
                    yerr=[n.deviation for n in points],
                    marker="*" if row.startswith("ours") else "o",
                    markersize=11 if row.startswith("ours") else 5,
                    linewidth=2 if row.startswith("ours") else 1,
                    capsize=3,
                    color=colours[row],
                    zorder=3 if row.startswith("ours") else 2,
                    label=ROWS[row].label.replace("*", ""),
                )
        axis.set(xscale="log", ylabel="test accuracy, %")
        axis.set_title(", ".join(panel))
        axis.grid(alpha=0.3)
    figure.supxlabel("bytes up and down")
    figure.legend(handles=list(handles.values()), loc="outside right", fontsize=7)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
