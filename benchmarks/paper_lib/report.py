"""The paper's tables beside ours, as Markdown, from the files of `paper_tables.py`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paper_lib.grid import RECIPES, ROWS, TABLES, Cell, Column, Table, cells_in_order
from paper_lib.results import Result, is_outdated, read_results

PUBLISHED = Path(__file__).parent / "published.yaml"
SCALES = ("full", "cpu")  # the better first
NOT_RUN, NOT_PRINTED = "not run yet", "–"
NAMES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "fashionmnist": "FashionMNIST",
    "svhn": "SVHN",
    "digits": "digits (not in the paper)",
    "in-sub": "ImageNet-Sub",
    "imagenet": "ImageNet-1K",
}
MEASURES = ("pairwise_distance", "coverage", "density", "class_margin", "right_side")
HEAD = """<!-- written by benchmarks/paper_report.py; do not edit -->
# Results beside the paper's

Test accuracy in percent. The paper's numbers are those of Zhang et al. 2023, mean ±
standard deviation; ours are the mean ± population standard deviation over freshly
initialised networks, each tested once, after its last step, on one condensed set.
`paper-300` trains 300 epochs without augmentation, `dsa-1000` 1000 epochs with it; the
paper says 300 epochs and does not say whether it augments. "networks" and "made with"
belong to our numbers: *full* are the presets for a GPU, *cpu* those of minutes.
"""


@dataclass(frozen=True)
class Results:
    """Finished cells by name, from the larger scale where there are two."""

    cells: dict[str, Result]

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """All files below what `paper_tables.py` calls ``--out``.

        Raises:
            SystemExit: There are none.
        """
        cells: dict[str, Result] = {}
        for scale in SCALES:
            for result in read_results(folder / scale):
                cells.setdefault(name_of(result), result)
        if not cells:
            raise SystemExit(f"no results in {folder}")
        return cls(cells)

    def of(self, column: Column, row: str) -> dict[str, Result]:
        """What is known of a cell, by recipe."""
        names = {r: Cell.at(column, row, r).name for r in RECIPES}
        if len(set(names.values())) == 1:  # the whole data set: one recipe
            names = {RECIPES[0]: names[RECIPES[0]]}
        return {r: self.cells[n] for r, n in names.items() if n in self.cells}


def name_of(result: Result) -> str:
    """Name of the cell a file holds."""
    cell = result["cell"]
    return Cell(Column(**cell["column"]), cell["row"], cell["recipe"]).name


def report(results: Results, picture: str | None = None) -> str:
    """The whole page; ``picture`` is where Figure 4 lies, as seen from the page."""
    published = yaml.safe_load(PUBLISHED.read_text())
    wanted = [cell.name for cell in cells_in_order()]
    done = sum(name in results.cells for name in wanted)
    lines = [HEAD, f"{done} of {len(wanted)} cells have been run.", ""]
    for table in TABLES.values():
        lines += [f"## {table.title}", ""]
        lines += _table(table, published.get(table.key, {}), results)
        lines += [""]
        for note in published["notes"].get(table.key, []):
            lines.append(f"- In the paper: {note}")
        lines += [""] if published["notes"].get(table.key) else []
        if table.key == "figure4" and picture is not None:
            lines += [f"![real images pale, condensed ones as stars]({picture})", ""]
    lines += _comparisons(results)
    lines += _diversity(results)
    lines += _commands(results)
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table, published: dict[str, Any], results: Results) -> Iterator[str]:
    yield (
        "| data | images per class | network | row | paper | "
        + " | ".join(RECIPES)
        + " | networks | made with |"
    )
    yield "|---|---:|---|---|---:|" + "---:|" * len(RECIPES) + "---:|---|"
    elsewhere = {name for values in published.values() for name in values}
    sets = list(dict.fromkeys(column.dataset for column in table.columns))
    ordered = sorted(table.columns, key=lambda c: (sets.index(c.dataset), c.ipc))
    columns = {column.name: column for column in ordered}
    for name in (*columns, *sorted(elsewhere - set(columns), key=_count)):
        column = columns.get(name)
        others = [row for row in published if row not in table.rows]
        for row in (*others, *table.rows):
            printed = published.get(row, {}).get(name)
            ours = results.of(column, row) if column and row in table.rows else {}
            if printed is None and (row in others or column is None):
                continue
            label = table.label_of(row) if row in table.rows else row
            runnable = column is not None and row in table.rows
            yield _line(name, label, printed, ours, runnable=runnable)


def _line(
    column: str, label: str, printed: Any, ours: dict[str, Result], *, runnable: bool
) -> str:
    dataset, _, rest = column.partition("-ipc")
    count, _, network = rest.partition("-")
    missing = NOT_RUN if runnable else NOT_PRINTED
    found = list(ours.values())
    if label == ROWS["full"].label and found:
        missing = NOT_PRINTED  # one recipe is enough
    cells = [
        NAMES[dataset],
        count,
        network or "convnet",
        label,
        NOT_PRINTED if printed is None else _spread(printed),
        *(_accuracy(ours[r]) if r in ours else missing for r in RECIPES),
        "/".join(dict.fromkeys(str(r["report"]["repeats"]) for r in found)) or "",
        "; ".join(dict.fromkeys(_made_with(r) for r in found)),
    ]
    return f"| {' | '.join(cells)} |"


def _count(column: str) -> tuple[str, int]:
    dataset, _, rest = column.partition("-ipc")
    return dataset, int(rest.partition("-")[0])


def _spread(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]} ± {value[1]}"
    return f"{value}"


def _accuracy(result: Result) -> str:
    found = result["report"]
    return f"{found['accuracy_mean']:.1f} ± {found['accuracy_std']:.1f}"


def _made_with(result: Result) -> str:
    found, setting = result["report"], result["setting"]
    parts = [setting["scale"], f"width {found['width']}", found["device"]]
    if found["max_steps"] is not None:
        parts.append(f"{found['max_steps']} steps at most")
    if setting["overrides"]:
        parts.append(" ".join(f"`{text}`" for text in setting["overrides"]))
    if found["dataset"] != result["cell"]["column"]["dataset"]:
        parts.append(f"data from {found['dataset']}")
    if note := setting.get("note"):
        parts.append(note)
    if is_outdated(result):
        parts.append("**before its preset changed**")
    return ", ".join(parts)


def _comparisons(results: Results) -> Iterator[str]:
    yield from ("## Is the method no worse than its parts?", "")
    yield (
        "The same steps and the same evaluation; *no worse* means by no more than one "
        "standard deviation, the larger of the two."
    )
    yield from ("", "| data | images per class | recipe | comparison | points | |")
    yield "|---|---:|---|---|---:|---|"
    pairs = [("table2", "ours", "pixels", "generator − pixels")]
    pairs += [
        (key, "ours-paper", row, f"all losses − {TABLES[key].label_of(row)}")
        for key in ("table6", "table7", "table8")
        for row in TABLES[key].rows
        if row != "ours-paper"
    ]
    for key, row, other, text in pairs:
        for column in TABLES[key].columns:
            mine, theirs = results.of(column, row), results.of(column, other)
            for recipe in (r for r in RECIPES if r in mine and r in theirs):
                pair = mine[recipe], theirs[recipe]
                if pair[0]["setting"] == pair[1]["setting"]:  # the same steps
                    yield _comparison(column, recipe, text, *pair)
    yield ""


def _comparison(
    column: Column, recipe: str, text: str, mine: Result, theirs: Result
) -> str:
    a, b = mine["report"], theirs["report"]
    gap = a["accuracy_mean"] - b["accuracy_mean"]
    allowed = max(a["accuracy_std"], b["accuracy_std"])
    verdict = "no worse" if gap >= -allowed else "**worse**"
    name = NAMES[column.dataset]
    return f"| {name} | {column.ipc} | {recipe} | {text} | {gap:+.1f} | {verdict} |"


def _diversity(results: Results) -> Iterator[str]:
    yield from ("## Diversity", "")
    yield (
        "What Figure 4 shows, in numbers (`condense_core.diversity` defines them), in "
        "the features of a network trained on the real images. In brackets: as many "
        "random real images."
    )
    yield ""
    measures = " | ".join(name.replace("_", " ") for name in MEASURES)
    yield f"| data | images per class | row | {measures} |"
    yield "|---|---:|---|" + "---:|" * len(MEASURES)
    order = {cell.name: position for position, cell in enumerate(cells_in_order())}
    for name in sorted(results.cells, key=lambda n: order.get(n, len(order))):
        cell, found = results.cells[name]["cell"], results.cells[name]["report"]
        measured = found.get("diversity")
        if measured is None:
            continue
        beside = measured["random_real"] or {}
        cells = [
            NAMES[cell["column"]["dataset"]],
            str(cell["column"]["ipc"]),
            ROWS[cell["row"]].label,
            *(f"{_three(measured[m])} ({_three(beside.get(m))})" for m in MEASURES),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _three(value: float | None) -> str:
    return NOT_PRINTED if value is None else f"{value:.3g}"


def _commands(results: Results) -> Iterator[str]:
    yield from ("## Commands", "", "Each makes its cell alone.", "")
    for name, result in sorted(results.cells.items()):
        yield from (f"`{name}`", "", "```", *result["commands"], "```", "")
