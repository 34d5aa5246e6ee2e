"""The command lines that make a cell: what is printed is what is run."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from condense_core.config.presets import flips
from paper_lib.grid import GENERATED, RECIPES, ROWS, Cell, settings_of

# The run's own evaluation is not a cell: as little of it as there can be.
NO_EVALUATION = (
    "evaluate.baselines=[]",
    "evaluate.repeats=1",
    "evaluate.recipe=paper-300",
    "evaluate.width=32",
    "evaluate.probe_every=0",
)
# On a CPU the selecting network and the one of the whole data set are cut short.
CPU_SELECTION = ("--selection-width", "32", "--selection-steps", "1000")
CPU_FULL = ("--max-steps", "300")
FULL_REPEATS = 5  # an evaluation of hours, whose spread is 0.1 points


@dataclass(frozen=True)
class Setting:
    """The same for all cells of a scale in a folder; written into every file.

    Attributes:
        scale: ``cpu`` or ``full``, see `settings_of`.
        repeats: Networks of an evaluation.
        width: Channels of the ConvNet.
        overrides: More ``--set``, of every condensation.
        seed: Of condensation and evaluation.
        note: What else the reader of a table must know, as that the data are a part.
    """

    scale: str
    repeats: int
    width: int = 128
    overrides: tuple[str, ...] = ()
    seed: int = 0
    note: str = ""


@dataclass(frozen=True)
class Place:
    """Where things are: differs between machines, and no number depends on it.

    Attributes:
        out: Folder of the results.
        device: auto, cpu or cuda.
        data_root: Of data sets by name.
        npz: Folders of data sets that are read as npz instead.
        generated: Folder of images for the row of Table 4.
    """

    out: Path
    device: str = "auto"
    data_root: Path | None = None
    npz: dict[str, Path] = field(default_factory=dict)
    generated: Path | None = None

    def anonymous(self) -> "Place":
        """The same with names for folders: commands that are anybody's."""
        return Place(
            out=Path("runs/paper"),
            device=self.device,
            data_root=None if self.data_root is None else Path("DATA"),
            npz={name: Path("DATA") / name for name in self.npz},
            generated=None if self.generated is None else Path("GENERATED"),
        )

    def file_of(self, cell: Cell, setting: Setting) -> Path:
        """JSON file of a cell."""
        return self.out / setting.scale / f"{cell.name}.json"

    def run_of(self, cell: Cell, setting: Setting) -> Path:
        """Run directory that a cell's artefact is condensed in."""
        return self.out / setting.scale / "runs" / cell.source

    def source_of(self, dataset: str) -> tuple[str, list[str]]:
        """Name to read a data set by, and where."""
        root = self.npz.get(dataset, self.data_root)
        name = "npz" if dataset in self.npz else dataset
        return name, [] if root is None else ["--data-root", str(root)]


def condense_command(cell: Cell, setting: Setting, place: Place) -> list[str] | None:
    """Arguments of ``condense`` that make the artefact; None where none is needed."""
    if ROWS[cell.row].reference is not None or cell.row == GENERATED:
        return None
    preset, overrides = settings_of(cell, setting.scale)
    source, root = place.source_of(cell.column.dataset)
    renamed = [] if source == cell.column.dataset else [f"data.name={source}"]
    sets = [*overrides, *setting.overrides, *renamed, *NO_EVALUATION]
    if setting.seed:
        sets.append(f"seed={setting.seed}")
    return [
        *("run", preset, *root, "--device", place.device),
        *(word for text in sets for word in ("--set", text)),
        *("--out", str(place.run_of(cell, setting))),
    ]


def evaluate_command(cell: Cell, setting: Setting, place: Place) -> list[str]:
    """Arguments of ``condense`` that measure the cell."""
    row = ROWS[cell.row]
    what = row.reference or str(place.run_of(cell, setting) / "condensed.safetensors")
    if cell.row == GENERATED:
        what = str(place.generated)
    source, root = place.source_of(cell.column.dataset)
    command = [
        *("evaluate", what, "--dataset", source, *root, "--device", place.device),
        *("--recipe", cell.recipe, "--network", cell.column.network),
        *("--repeats", str(repeats_of(cell, setting)), "--seed", str(setting.seed)),
        "--flip" if flips(cell.column.dataset) else "--no-flip",
    ]
    if cell.column.network == "convnet":
        command += ["--width", str(setting.width)]
    if row.reference is None:
        first = cell.column.network == "convnet" and cell.recipe == RECIPES[0]
        return [*command, "--diversity"] if first else command
    command += ["--ipc", str(cell.column.ipc)]
    if setting.scale == "cpu" and cell.row == "full":
        command += CPU_FULL
    elif setting.scale == "cpu" and row.reference != "random":
        command += CPU_SELECTION
    return command


def repeats_of(cell: Cell, setting: Setting) -> int:
    """Networks of a cell."""
    if cell.row == "full":
        return min(setting.repeats, FULL_REPEATS)
    return setting.repeats


def shown(command: list[str]) -> str:
    """As typed in a shell."""
    return shlex.join(["condense", *command])
