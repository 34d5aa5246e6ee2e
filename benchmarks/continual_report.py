"""Table and plot of the files that `continual.py` wrote; nothing is typed by hand.

    python benchmarks/continual_report.py runs/continual \
        --out-table docs/continual_table.md --out-plot docs/images/continual.png
"""

import argparse
import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LABELS = {
    "naive": "no memory",
    "joint": "joint training",
    "replay-bytes": "`ReplayPlugin`, same bytes",
    "class-balanced": "class-balanced replay",
    "gdumb": "GDumb",
    "er-ace": "ER-ACE",
    "der++": "DER++",
    "generative-replay": "Avalanche's `GenerativeReplay`",
    "pca-gaussian": "PCA-Gaussian, 8 bits",
    "pca-mixture-4": "PCA-Gaussian, mixture of 4, 8 bits",
    "pca-mixture-8": "PCA-Gaussian, mixture of 8, 8 bits",
    "vae-decoder": "VAE decoder, 8 bits",
    "pixels": "exemplars in our plugin (balanced batches)",
    "jpeg": "herded exemplars as JPEG",
    "ours-experience": "**ours**, one set an experience",
    "ours-shared": "**ours**, one shared set",
    "ours-fixed": "**ours**, fixed codes",
}
DATASETS = {"mnist": "Split-MNIST", "fashionmnist": "Split-FashionMNIST"}
DATASETS |= {"cifar10": "Split-CIFAR10", "digits": "Split-digits"}
HEADER = (
    "| row | budget, bytes | stored, bytes | accuracy, % | forgetting, % "
    "| seconds | of which memory | seeds |"
)
REFERENCES = ("naive", "joint")  # horizontal lines in the plot


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


def label_of(row: str) -> str:
    bare = row if row in LABELS else row.removesuffix("-balanced")
    count = bare.removeprefix("replay-")
    label = f"`ReplayPlugin({count})`" if count.isdecimal() else bare
    label = LABELS.get(bare, label)
    return label if bare == row else f"{label}, balanced batches"


def spread(values: list[float], scale: float = 1.0) -> str:
    """Mean ± sample standard deviation; a dash where there is nothing to say."""
    if not values:
        return "–"
    mean = f"{scale * statistics.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {scale * statistics.stdev(values):.1f}"


def table(groups: list[Group]) -> str:
    """The Markdown table, one section a data set."""
    lines = [
        "<!-- written by benchmarks/continual_report.py; do not edit -->",
        "",
        "Mean ± sample standard deviation over seeds (order of the classes,",
        "initialisation, batches). Bytes are the most that was stored.",
    ]
    dataset = None
    for group in groups:
        if group.dataset != dataset:
            dataset = group.dataset
            lines += ["", f"### {DATASETS[dataset]}", "", _conditions(groups, dataset)]
            lines += ["", HEADER, "|---|" + "---:|" * 7]
        lines.append(_line(group))
    return "\n".join(lines) + "\n"


def _conditions(groups: list[Group], dataset: str) -> str:
    runs = [run for group in groups if group.dataset == dataset for run in group.runs]
    config = runs[0]["config"]
    threads = sorted({f"{run['threads']} threads on {run['device']}" for run in runs})
    text = (
        f"{config['experiences']} experiences, {config['network']}, "
        f"{config['epochs']} epochs, batch {config['batch_size']}, "
        f"Adam {config['lr']:g}; {', '.join(threads)}."
    )
    if config["limit"] is not None:
        text += f" **Only {config['limit']} training images a class.**"
    return text


def _line(group: Group) -> str:
    budget = "–" if group.mem_bytes is None else f"{group.mem_bytes:,}"
    condensing = statistics.mean(group.values("seconds_condensing"))
    cells = [
        label_of(group.row),
        budget,
        f"{group.stored:,.0f}",
        spread(group.values("accuracy"), 100),
        spread(group.values("forgetting"), 100),
        f"{statistics.mean(group.values('seconds')):.0f}",
        f"{condensing:.0f}" if condensing else "–",
        str(len(group.runs)),
    ]
    return "| " + " | ".join(cells) + " |"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what continual.py calls --out")
    parser.add_argument("--out-table", type=Path)
    parser.add_argument("--out-plot", type=Path)
    arguments = parser.parse_args()
    groups = read_groups(arguments.folder)
    text = table(groups)
    if arguments.out_table is None:
        print(text, end="")
    else:
        arguments.out_table.write_text(text)
    if arguments.out_plot is not None:
        plot(groups, arguments.out_plot)


if __name__ == "__main__":
    main()
