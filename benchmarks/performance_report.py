"""Tables of what the speed benchmarks wrote; nothing is typed by hand.

    python benchmarks/performance_report.py docs/results/speed --out docs/performance.md

The folder holds files of ``--json`` of `engine.py`, `students.py`, `allocator.py`,
`pool.py`, `augment.py`, `loader.py` and `ensemble.py` and of ``--out`` of `growth.py`
and `million.py`, under any names.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from condense_core.runlog import atomic_write_text

Result = dict[str, Any]

HEAD = """<!-- written by benchmarks/performance_report.py; do not edit -->
# Speed

Every ratio is to a slow but plain implementation of the same thing, measured in turn in
the same process, the least of several rounds. Where memory is left to the C library,
the reference has a process of its own without `compute/allocator.py`. Seconds
depend on the machine and its load.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    files = sorted(arguments.folder.glob("*.json"))
    if not files:
        raise SystemExit(f"{arguments.folder} has no .json file: run the benchmarks")
    results = [json.loads(path.read_text()) for path in files]
    atomic_write_text(arguments.out, report(results))


def report(results: Iterable[Result]) -> str:
    """The page: one table a kind of benchmark that was run."""
    parts = [HEAD]
    remaining = list(results)
    for title, belongs, columns in TABLES:
        chosen = [result for result in remaining if belongs in result]
        if chosen:
            rows = [row for result in chosen for row in _rows(result, belongs)]
            parts.append(f"## {title}\n\n{_table(rows, columns)}")
        if chosen and "reference" in chosen[0]:
            parts.append(f"Reference: {chosen[0]['reference']}.\n")
    return "\n".join(parts)


def _rows(result: Result, key: str) -> list[Result]:
    """One row a file, or a row an entry where the file has a list below ``key``."""
    entries = result[key]
    return (
        [result | entry for entry in entries] if isinstance(entries, list) else [result]
    )


def _table(results: list[Result], columns: dict[str, Callable[[Result], str]]) -> str:
    rows = [[cell(result) for cell in columns.values()] for result in results]
    lines = [columns.keys(), ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _machine(result: Result) -> str:
    machine = result["machine"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"{machine['device']}, {threads}, load {machine['load']}"


def _or_dash(key: str, style: str) -> Callable[[Result], str]:
    """The reference may have been left out."""
    return lambda result: format(result[key], style) if key in result else "–"


def _engine(result: Result) -> str:
    options = result["options"]
    return " ".join([f"`{options['preset']}`", *options["overrides"]])


def _ensemble(result: Result) -> str:
    options = result["options"]
    return (
        f"{options['networks']} × {options['network']} of width {options['width']}, "
        f"{options['ipc']} per class"
    )


# Title, a key that only its files have, and the columns.
TABLES: list[tuple[str, str, dict[str, Callable[[Result], str]]]] = [
    (
        "A step of Algorithm 1",
        "share_of_floor",
        {
            "preset": _engine,
            "times the plain step": _or_dash("ratio_plain_over_ours", ".2f"),
            "... memory left to the C library": _or_dash(
                "ratio_plain_alone_over_ours", ".2f"
            ),
            "seconds a step": lambda r: f"{r['seconds_per_step']:.3g}",
            "share of the matrix floor": lambda r: f"{r['share_of_floor']:.0%}",
            "peak memory, GB": lambda r: f"{r['peak_memory_bytes'] / 1e9:.2f}",
            "images differ by": _or_dash("mean_image_difference_to_plain", ".1e"),
            "of a change of": lambda r: f"{r['mean_image_change']:.1e}",
            "machine": _machine,
        },
    ),
    (
        "A window of the unrolled objective",
        "seconds_per_window",
        {
            "window": lambda r: "{window} steps, {images} images, width {width}".format(
                **r["options"]
            ),
            "times the plain window": lambda r: f"{r['ratio_plain_over_ours']:.2f}",
            "seconds": lambda r: f"{r['seconds_per_window']:.3g}",
            "gradients differ by": lambda r: (
                f"{r['relative_difference_of_gradients']:.1e}"
            ),
            "machine": _machine,
        },
    ),
    (
        "Freed memory kept for the next step, on a CPU",
        "ratio_default_over_kept",
        {
            "batch": lambda r: str(r["options"]["batch"]),
            "times the default": lambda r: ", ".join(
                f"{name}: {ratio:.2f}"
                for name, ratio in r["ratio_default_over_kept"].items()
            ),
            "peak memory, GB, default and kept": lambda r: " and ".join(
                f"{r['peak_memory_bytes'][way] / 1e9:.2f}"
                for way in ("default", "kept")
            ),
            "machine": _machine,
        },
    ),
    (
        "Average pooling in a training step of the ConvNet",
        "ratio_avg_pool_over_ours",
        {
            "batch": lambda r: str(r["options"]["batch"]),
            "times the step with PyTorch's": lambda r: ", ".join(
                f"{name}: {ratio:.2f}"
                for name, ratio in r["ratio_avg_pool_over_ours"].items()
            ),
            "machine": _machine,
        },
    ),
    (
        "Augmentation",
        "operations",
        {
            "images": lambda r: str(r["options"]["images"]),
            "times the list": lambda r: f"{r['ratio_list_over_batched']:.1f}",
            "by operation": lambda r: ", ".join(
                f"{name} {row['ratio_list_over_batched']:.0f}"
                for name, row in r["operations"].items()
            ),
            "machine": _machine,
        },
    ),
    (
        "Real images",
        "ratio_loader_over_batch",
        {
            "images": lambda r: f"{r['options']['images']:,}",
            "batches, times the loader": lambda r: (
                f"{r['ratio_loader_over_batch']:.1f}"
            ),
            "by class, times the loader": lambda r: (
                f"{r['ratio_loader_over_sample']:.1f}"
            ),
            "machine": _machine,
        },
    ),
    (
        "Evaluation networks side by side",
        "ratio_loop_over_vmap",
        {
            "networks": _ensemble,
            "times the loop": lambda r: f"{r['ratio_loop_over_vmap']:.2f}",
            "weights differ by": lambda r: f"{r['largest_weight_difference']:.1e}",
            "machine": _machine,
        },
    ),
    (
        "What grows: the largest size over the smallest",
        "growth",
        {
            "format": lambda r: r["format"],
            "from and to": lambda r: r["sweep"],
            "learnable numbers": lambda r: f"{r['learnable']:.2f}",
            "numbers stored": lambda r: f"{r['stored']:.2f}",
            "peak memory": lambda r: f"{r['peak_bytes']:.2f}",
            "time": lambda r: f"{r['seconds']:.2f}",
        },
    ),
    (
        "What grows: every size",
        "points",
        {
            "format": lambda r: r["format"],
            "classes": lambda r: f"{r['classes']:,}",
            "pixels a side": lambda r: str(r["size"]),
            "images per class": lambda r: str(r["ipc"]),
            "learnable numbers": lambda r: f"{r['learnable']:,}",
            "numbers stored": lambda r: f"{r['stored']:,}",
            "peak memory, MiB": lambda r: f"{r['peak_bytes'] / 2**20:.0f}",
            "seconds an update": lambda r: f"{r['seconds']:.2f}",
        },
    ),
    (
        "A million images",
        "phases",
        {
            "phase": lambda r: r["phase"],
            "peak resident, GB": lambda r: f"{r['peak_gb']:.2f}",
            "private at its end, GB": lambda r: f"{r['private_gb_at_end']:.2f}",
            "seconds": lambda r: f"{r['seconds']:.0f}",
        },
    ),
]


if __name__ == "__main__":
    main()
