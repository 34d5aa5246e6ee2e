"""Accuracy against stored bytes."""

import statistics
from pathlib import Path
from typing import Any

from continual_lib.report.groups import Group
from continual_lib.rows import DATASETS, label_of

REFERENCES = ("naive", "joint")  # horizontal lines


def plot(groups: list[Group], path: Path) -> None:
    """Accuracy against stored bytes, one panel a data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    datasets = list(dict.fromkeys(group.dataset for group in groups))
    rows = sorted({group.row for group in groups} - set(REFERENCES))
    colours = {row: pyplot.get_cmap("tab20")(i % 20) for i, row in enumerate(rows)}
    figure, axes = pyplot.subplots(
        1,
        len(datasets),
        figsize=(3 + 5 * len(datasets), 5),
        squeeze=False,
        layout="constrained",
    )
    handles: dict[str, Any] = {}
    for axis, dataset in zip(axes[0], datasets, strict=True):
        mine = [group for group in groups if group.dataset == dataset]
        for row in rows:
            points = sorted(
                (g for g in mine if g.row == row and g.stored), key=lambda g: g.stored
            )
            if points:
                handles[row] = _draw_row(axis, row, points, colours[row])
        for group in (g for g in mine if g.row in REFERENCES):
            axis.axhline(group.accuracy, color="grey", linestyle="--", linewidth=0.8)
            axis.annotate(
                label_of(group.row),
                (0.01, group.accuracy),
                xycoords=("axes fraction", "data"),
                color="grey",
                fontsize=7,
                va="bottom",
            )
        axis.set(xscale="log", xlabel="stored bytes", ylabel="final accuracy, %")
        _label_bytes(axis)
        axis.set_title(DATASETS[dataset])
        axis.grid(alpha=0.3)
    if handles:  # one legend, although a row may be missing in some panel
        figure.legend(handles=list(handles.values()), loc="outside right", fontsize=7)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _label_bytes(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axis.get_xlim()
    if high < 10 * low:  # less than a decade has hardly a tick
        middle = (low * high) ** 0.5
        axis.set_xlim(middle / 10**0.5, middle * 10**0.5)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g} kB"))


def _draw_row(axis: Any, row: str, points: list[Group], colour: Any) -> Any:
    ours = row.startswith("ours")
    deviations = [
        100 * statistics.stdev(g.values("accuracy")) if len(g.runs) > 1 else 0
        for g in points
    ]
    return axis.errorbar(
        [g.stored for g in points],
        [g.accuracy for g in points],
        yerr=deviations,
        marker="*" if ours else "o",
        markersize=11 if ours else 5,
        linewidth=2 if ours else 1,
        capsize=3,
        color=colour,
        label=label_of(row).replace("*", "").replace("`", ""),
    )
