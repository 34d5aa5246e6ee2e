"""Table and plot of the files that `frontier.py` wrote."""

import json
import shlex
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frontier_lib.rows import CURVES


@dataclass(frozen=True)
class Mark:
    """A point of the plot: a curve at one size, over the seeds."""

    dataset: str
    curve: str
    size: int
    bytes: float
    images: int
    accuracies: tuple[float, ...]
    seeds: int

    @property
    def accuracy(self) -> float:
        """Mean over networks and seeds, in percent."""
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Population standard deviation over networks and seeds."""
        return statistics.pstdev(self.accuracies)


@dataclass(frozen=True)
class Frontier:
    """All marks, and the setting of each data set and what to note on its images."""

    marks: list[Mark]
    settings: dict[str, dict[str, Any]]
    notes: dict[str, str]


def read(folder: Path) -> Frontier:
    """Every JSON file in ``folder``, grouped over seeds.

    Raises:
        SystemExit: No files, or runs with different settings side by side.
    """
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    settings: dict[str, dict[str, Any]] = {}
    notes: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        first = settings.setdefault(run["dataset"], run["setting"])
        if run["setting"] != first:
            raise SystemExit(f"{path}: {run['setting']}, but others have {first}")
        notes[run["dataset"]] = run.get("note", "")
        for point in run["points"]:
            found[run["dataset"], point["curve"], run["size"]].append(point)
    if not found:
        raise SystemExit(f"no results in {folder}")
    order = list(CURVES)
    marks = [
        Mark(
            *key,
            bytes=statistics.mean(point["bytes"] for point in points),
            images=points[0]["images"],
            accuracies=tuple(a for point in points for a in point["accuracies"]),
            seeds=len(points),
        )
        for key, points in found.items()
    ]
    marks.sort(key=lambda m: (m.dataset, order.index(m.curve), m.bytes))
    return Frontier(marks, dict(sorted(settings.items())), notes)


def table(frontier: Frontier) -> str:
    """Markdown, one table a data set."""
    lines = [
        "<!-- written by benchmarks/frontier_report.py; do not edit -->",
        "# Accuracy against stored bytes",
        "",
        "Mean ± population standard deviation over networks and seeds, in percent.",
        "Real images and condensed pixels are one file a class as Pillow encodes it; a",
        "generator is packed, with all that is needed to draw its images again.",
    ]
    for dataset, setting in frontier.settings.items():
        lines += [
            "",
            f"## {dataset}",
            "",
            _conditions(setting, frontier.notes[dataset]),
            "",
            *("```sh", _command(dataset, setting, frontier.notes[dataset]), "```"),
            "",
        ]
        lines += ["| stored | size | bytes | images | accuracy | networks |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        for m in (m for m in frontier.marks if m.dataset == dataset):
            lines.append(
                f"| {CURVES[m.curve]} | {m.size} | {m.bytes:,.0f} | {m.images} "
                f"| {m.accuracy:.1f} ± {m.deviation:.1f} | {len(m.accuracies)} |"
            )
    return "\n".join(lines) + "\n"


def _conditions(setting: dict[str, Any], note: str) -> str:
    cap = setting["max_steps"]
    capped = "" if cap is None else f", at most {cap} steps"
    text = (
        f"ConvNet of width {setting['width']}, {setting['recipe']}{capped}; presets of "
        f"scale {setting['scale']}. *size* is images per class, or the generator's "
        f"channels ({setting['generator_ipc']} images per class)."
    )
    return f"{text} {note}".rstrip()


def _command(dataset: str, setting: dict[str, Any], note: str) -> str:
    """What measures all cells; what has a note was read from arrays."""
    options = ("recipe", "repeats", "width", "max_steps", "scale")
    words = [f"--{k.replace('_', '-')} {setting[k]}" for k in options if setting[k]]
    words += [f"--ipc {setting['generator_ipc']}"]
    words += [f"--set {text}" for text in setting["overrides"]]
    words += [f"--npz --note {shlex.quote(note)}"] * bool(note)
    start = f"python benchmarks/frontier.py --dataset {dataset} --data-root DATA"
    return " ".join([start, *words])


def plot(frontier: Frontier, path: Path) -> None:
    """Accuracy against bytes, one panel a data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    datasets = list(frontier.settings)
    figure, axes = pyplot.subplots(
        1,
        len(datasets),
        figsize=(3 + 5 * len(datasets), 5),
        squeeze=False,
        layout="constrained",
    )
    handles: dict[str, Any] = {}
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for number, (curve, label) in enumerate(CURVES.items()):
            marks = [
                m for m in frontier.marks if (m.dataset, m.curve) == (dataset, curve)
            ]
            if marks:
                ours = curve.startswith("generator")
                handles[curve] = axis.errorbar(
                    [m.bytes for m in marks],
                    [m.accuracy for m in marks],
                    yerr=[m.deviation for m in marks],
                    marker="*" if ours else "o",
                    markersize=9 if ours else 5,
                    linestyle="--" if curve.endswith("jpeg") else "-",
                    capsize=3,
                    color=pyplot.get_cmap("tab10")(number),
                    label=label,
                )
        axis.set(xscale="log", xlabel="stored bytes", ylabel="test accuracy, %")
        axis.set_title(dataset)
        axis.grid(alpha=0.3)
    figure.legend(handles=list(handles.values()), loc="outside right", fontsize=8)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)
