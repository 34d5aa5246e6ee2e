"""Take the artefact of a finished run into the zoo.

    python zoo/add.py runs/digits-ipc1 digits-ipc1
    python zoo/add.py runs/mnist-ipc1 mnist-ipc1 --report mnist-ipc1.json

writes ``NAME.safetensors``, ``NAME.yaml`` (the whole configuration) and ``NAME.json``
(how it was made, how good it is, and the commands for both), and the table of the
README. The number is that of the run, or of a report of ``condense evaluate
RUN/condensed.safetensors --json FILE``, as one with more networks.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from condense_core.artefact import CondensedDataset
from condense_core.config import CondenseConfig
from condense_core.errors import CondenseError
from condense_core.runlog import atomic_write_bytes, atomic_write_text

ZOO = Path(__file__).parent
LARGEST = 1_000_000  # bytes: an artefact is to be smaller than what it stands for
FILES = {"digits"}  # read from nowhere: no --data-root
TABLE = "<!-- written by zoo/add.py; do not edit below -->\n"
# Of a run's report: what belongs to the machine, or is said elsewhere in the entry.
LEFT_OUT = ("command", "machine", "seconds", "baselines", "digest", "pixel_bytes")


def add(run: Path, name: str, *, report: Path | None = None, zoo: Path = ZOO) -> None:
    """Copy an artefact with its provenance; rewrites the table of the README.

    Args:
        run: Run directory.
        name: In the zoo.
        report: Of ``condense evaluate --json``; the run's own if None.
        zoo: Where to.

    Raises:
        SystemExit: The run is not finished, the artefact too large, or the report one
            of another artefact.
    """
    source = run / "condensed.safetensors"
    try:
        condensed = CondensedDataset.load(source)
        config = CondenseConfig.from_yaml(run / "config.yaml")
        found = json.loads((report or run / "report.json").read_text("utf-8"))
    except (CondenseError, OSError) as error:
        sys.exit(f"{run} holds no finished run: {error}")
    size = source.stat().st_size
    if size > LARGEST:
        sys.exit(
            f"{source} has {size:,} bytes, the zoo takes {LARGEST:,}: lower "
            "format.channels or format.precision"
        )
    if not isinstance(found, dict) or found.get("bytes") != size:
        where = report or run / "report.json"
        sys.exit(f"{where} is no report of {source}: evaluate that file alone")
    zoo.mkdir(exist_ok=True)
    atomic_write_bytes(zoo / f"{name}.safetensors", source.read_bytes())
    atomic_write_text(zoo / f"{name}.yaml", config.to_yaml())
    content = {
        "name": name,
        "made_by": _made_by(name, config),
        "evaluated_by": _evaluated_by(name, config, found),
        "digest": condensed.digest,
        "pixel_bytes": condensed.pixel_bytes,
        "report": {key: value for key, value in found.items() if key not in LEFT_OUT},
    }
    baselines = found.get("baselines")
    if baselines:
        content["references"] = {
            row: {key: one[key] for key in ("accuracy_mean", "accuracy_std", "bytes")}
            for row, one in baselines.items()
        }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    atomic_write_text(zoo / f"{name}.json", text + "\n")
    write_table(zoo)


def _made_by(name: str, config: CondenseConfig) -> str:
    root = [] if config.data.name in FILES else ["--data-root", "DATA"]
    words = ["condense", "run", f"zoo/{name}.yaml", *root, "--out", f"runs/{name}"]
    return shlex.join(words)


def _evaluated_by(name: str, config: CondenseConfig, found: dict[str, Any]) -> str:
    root = [] if config.data.name in FILES else ["--data-root", "DATA"]
    words = [
        *("condense", "evaluate", f"zoo/{name}.safetensors"),
        *("--dataset", config.data.name, *root, "--recipe", found["recipe"]),
        *("--network", found["network"], "--width", str(found["width"])),
        *("--repeats", str(found["repeats"]), "--seed", str(found["seed"])),
        "--flip" if found["recipe_settings"]["flip"] else "--no-flip",
    ]
    return shlex.join(words)


def write_table(zoo: Path = ZOO) -> None:
    """Bring the table of the README up to date with the JSON files."""
    readme = zoo / "README.md"
    head = readme.read_text("utf-8").split(TABLE)[0] if readme.exists() else ""
    lines = [
        "| artefact | data | images per class | bytes | as 8-bit pixels | accuracy, % "
        "| networks |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for path in sorted(zoo.glob("*.json")):
        entry = json.loads(path.read_text("utf-8"))
        found = entry["report"]
        lines.append(
            f"| [{entry['name']}]({path.name}) | {found['dataset']} | {found['ipc']} "
            f"| {found['bytes']:,} | {entry['pixel_bytes']:,} "
            f"| {found['accuracy_mean']:.2f} ± {found['accuracy_std']:.2f} "
            f"| {found['repeats']} × {found['network']} of width {found['width']}, "
            f"{found['recipe']} |"
        )
    atomic_write_text(readme, head + TABLE + "\n" + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("name", help="in the zoo")
    parser.add_argument(
        "--report", type=Path, help="of condense evaluate --json (default: the run's)"
    )
    arguments = parser.parse_args()
    add(arguments.run, arguments.name, report=arguments.report)
    print(f"{ZOO / arguments.name}.safetensors")


if __name__ == "__main__":
    main()
