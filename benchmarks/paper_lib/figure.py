"""Figure 4: where the condensed images lie among the real ones."""

import json
from pathlib import Path
from typing import Any

from paper_lib.grid import RECIPES, TABLES, Cell
from paper_lib.report import NAMES, SCALES


def read_panels(folder: Path) -> dict[str, list[tuple[str, Any]]]:
    """Label and features of each panel, by data set; from the runs of a folder.

    The features are two principal components of one network for all panels: it depends
    on the real images and the seed alone.
    """
    table, panels = TABLES["figure4"], {}
    for column in table.columns:
        for scale in SCALES:
            found = []
            for row in table.rows:
                source = Cell.at(column, row, RECIPES[0]).source
                path = folder / scale / "runs" / source / "features.json"
                if path.exists():
                    found.append((table.label_of(row), json.loads(path.read_text())))
            if found:
                panels.setdefault(NAMES[column.dataset], found)
    return panels


def plot(panels: dict[str, list[tuple[str, Any]]], path: Path) -> None:
    """One line of panels a data set: real images pale, condensed ones as stars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    width = max(len(line) for line in panels.values())
    figure, axes = pyplot.subplots(
        len(panels),
        width,
        figsize=(4 * width, 4 * len(panels)),
        squeeze=False,
        sharex="row",
        sharey="row",
        layout="constrained",
    )
    for line, (dataset, found) in zip(axes, panels.items(), strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, (label, features) in zip(line, found, strict=False):
            axis.set_axis_on()
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{dataset}: {label}", fontsize=8)
            for kind, style in (
                ("real", {"s": 6, "alpha": 0.2, "linewidths": 0}),
                ("synthetic", {"s": 60, "marker": "*", "edgecolors": "black"}),
            ):
                x, y, classes = zip(*features[kind], strict=True)
                axis.scatter(x, y, c=classes, cmap="tab10", **style)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
