"""Running cells, those worth most first, until the time is over."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from condense_core.runlog import atomic_write_text
from paper_lib.commands import (
    Place,
    Setting,
    condense_command,
    evaluate_command,
    repeats_of,
    shown,
)
from paper_lib.grid import Cell
from paper_lib.results import (
    condensed_with,
    configuration_of,
    evaluate_seconds,
    is_done,
    read_results,
    save,
)

STOPPING = 10.0  # seconds kept for a command to write its last checkpoint
WORTH_STARTING = 20.0  # seconds: loading PyTorch and the data takes some


class CommandError(Exception):
    """A command ended with an error; the text is its last line."""


class Deadline:
    """Seconds that are left."""

    def __init__(self, budget: float) -> None:
        self._end = time.monotonic() + budget

    @property
    def left(self) -> float:
        """Seconds, less those kept for stopping."""
        return self._end - time.monotonic() - STOPPING


def run_cells(
    cells: Iterable[Cell], setting: Setting, place: Place, *, budget: float
) -> list[str]:
    """Measure the cells that are missing, in order, within the time.

    What the time cuts short goes on in the next call: a condensation where it stopped,
    an evaluation after its last network. One is started only if what is known says that
    the next network will end, or all of them where they are trained side by side.

    Args:
        cells: Those worth most first.
        setting: What their numbers depend on.
        place: Where data and results are.
        budget: Seconds.

    Returns:
        A line for every cell that failed.
    """
    deadline, failed = Deadline(budget), {}
    for cell in cells:
        if is_done(place.file_of(cell, setting), setting) or cell.source in failed:
            continue
        if deadline.left < WORTH_STARTING:
            print("time is over; the same command goes on", flush=True)
            break
        try:
            if _condense(cell, setting, place, deadline):
                _evaluate(cell, setting, place, deadline)
        except CommandError as error:
            failed[cell.source] = f"{cell.name}: {error}"
            print(failed[cell.source], flush=True)
    return list(failed.values())


def _condense(cell: Cell, setting: Setting, place: Place, deadline: Deadline) -> bool:
    """Go on condensing for a cell; whether what it evaluates is there."""
    command = condense_command(cell, setting, place)
    run = place.run_of(cell, setting)
    if command is None:
        return True
    if (run / "report.json").exists():
        if condensed_with(run) != configuration_of(command):
            raise CommandError(f"{run} was made otherwise: delete it")
        return True
    run.parent.mkdir(parents=True, exist_ok=True)
    seconds = _run(command, _log_of(cell, setting, place), deadline)
    _add_seconds(run, seconds)
    return (run / "report.json").exists()


def _evaluate(cell: Cell, setting: Setting, place: Place, deadline: Deadline) -> None:
    """Evaluate a cell and write its file, if the time is likely to suffice."""
    path = place.file_of(cell, setting)
    needed = evaluate_seconds(cell, setting, read_results(path.parent))
    if setting.scale == "cpu":
        needed /= repeats_of(cell, setting)
    if needed > deadline.left:
        print(f"{cell.name}: needs about {needed:.0f} s, not now", flush=True)
        return
    part = path.with_suffix(".part")
    command = [*evaluate_command(cell, setting, place), "--json", str(part)]
    _add_seconds(part, _run(command, _log_of(cell, setting, place), deadline))
    if not part.exists():
        return
    seconds = _seconds_of(part)
    report = json.loads(part.read_text())
    anywhere = place.anonymous()
    commands = (
        condense_command(cell, setting, anywhere),
        evaluate_command(cell, setting, anywhere),
    )
    save(
        path,
        cell,
        setting,
        commands=[shown(command) for command in commands if command is not None],
        configuration=condensed_with(place.run_of(cell, setting)),
        report=report,
        seconds_condensing=_seconds_of(place.run_of(cell, setting)),
        seconds_evaluating=seconds,
    )
    part.unlink()
    _seconds_file(part).unlink()
    print(
        f"{cell.name}: {report['accuracy_mean']:.2f} ± {report['accuracy_std']:.2f} % "
        f"({seconds:.0f} s)",
        flush=True,
    )


def _log_of(cell: Cell, setting: Setting, place: Place) -> Path:
    folder = place.file_of(cell, setting).parent / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{cell.name}.log"


def _seconds_of(made: Path) -> float | None:
    """Seconds spent on a run directory or a report, over all calls."""
    path = _seconds_file(made)
    return float(path.read_text()) if path.exists() else None


def _add_seconds(made: Path, seconds: float) -> None:
    total = seconds + (_seconds_of(made) or 0.0)
    atomic_write_text(_seconds_file(made), f"{total:.1f}\n")


def _seconds_file(made: Path) -> Path:
    return made.with_name(f"{made.name}.seconds")


def _run(command: list[str], log: Path, deadline: Deadline) -> float:
    """Run ``condense`` until it ends or the time is over; seconds it took.

    In a process of its own, so that a cell is what its printed command makes of it.

    Raises:
        CommandError: It failed.
    """
    print(shown(command), flush=True)
    started = time.monotonic()
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "condense_core", *command],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(max(deadline.left, 0.0))
        except BaseException as stopped:  # Ctrl-C stops the command too
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            return time.monotonic() - started
    if process.returncode != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line]
        raise CommandError(lines[-1] if lines else f"exit code {process.returncode}")
    return time.monotonic() - started
