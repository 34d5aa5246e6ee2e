"""What a run writes as it works: metrics.jsonl, progress, files that never tear.

``metrics.jsonl`` holds no clock times, so that the file of a resumed run is byte for
byte the file of an uninterrupted one.
"""

import errno
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from condense_core.errors import RunError

CHECKPOINT_SECONDS = 20.0  # between two writes of what a run needs to go on
_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_REDRAWS = 0.2
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Replace a file by ``data``: after a crash it is the old one or the new one.

    Args:
        path: File to write; its folder must exist.
        data: The whole content.

    Raises:
        RunError: If the disk is full or the file cannot be written.
    """
    path = Path(path)
    # os.replace is atomic only within one file system: the temporary file lies beside.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _write_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path | str, text: str) -> None:
    """`atomic_write_bytes` of ``text`` in UTF-8.

    Raises:
        RunError: If the disk is full or the file cannot be written.
    """
    atomic_write_bytes(path, text.encode())


class RunLog:
    r"""Metrics to a file and progress to stderr, for the length of a ``with`` block.

    On a terminal progress is a bar; elsewhere it is a plain line every few seconds.

    Args:
        path: The ``metrics.jsonl`` to append to; None writes no file.
        total: Number of steps of the whole run.
        description: Name of the work, shown before the progress.
        resume_step: First step this process will do. Lines at or after it were
            written by a process that died later than its last checkpoint: they are
            dropped, as is a line that ``kill -9`` tore. 0 starts the file anew.
        progress: Whether to show progress at all.

    Raises:
        RunError: If the file cannot be read or written.

    Example:
        >>> with RunLog(None, total=2, description="demo") as log:
        ...     for step in range(2):
        ...         log.log(step, **{"loss/matching": torch.tensor(0.5)})
        ...         log.advance(step + 1, loss=0.5)
    """

    def __init__(
        self,
        path: Path | None,
        *,
        total: int,
        description: str,
        resume_step: int = 0,
        progress: bool = True,
    ) -> None:
        self._path = path
        self._total = total
        self._description = description
        self._resume_step = resume_step
        self._progress = progress
        self._file: IO[bytes] | None = None
        self._bar: tqdm[Any] | None = None
        self._started = self._shown_at = -math.inf

    def __enter__(self) -> Self:
        """Open the file, cut to ``resume_step``, and on a terminal the bar."""
        if self._path is not None:
            try:
                _keep_lines_before(self._path, self._resume_step)
                # Unbuffered: a line is one write, and a killed process loses none.
                self._file = open(self._path, "ab", buffering=0)
            except OSError as error:
                raise _write_error(error, self._path) from error
        self._started = time.monotonic()
        if self._progress and sys.stderr.isatty():
            self._bar = tqdm(
                total=self._total,
                initial=self._resume_step,
                desc=self._description,
                dynamic_ncols=True,
                file=sys.stderr,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file and leave the bar where it stood."""
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            self._file.close()
        self._bar = self._file = None

    def log(self, step: int, **scalars: float | Tensor) -> None:
        """Append one line ``{"step": step, **scalars}`` to the file.

        Args:
            step: Index of the step, from 0.
            **scalars: Numbers or one-element tensors; names may hold a slash, as in
                ``**{"loss/matching": loss}``. A value that is not finite becomes
                null, JSON having no word for it.

        Raises:
            RunError: If the disk is full or the file cannot be written.
        """
        if self._file is None or self._path is None:
            return
        line: dict[str, float | None] = {"step": step}
        line |= {name: _jsonable(value) for name, value in _to_host(scalars).items()}
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            # A full disk may take a part of the line and say so only in the count.
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _write_error(error, self._path) from error

    def advance(self, step: int, **shown: float | Tensor | str) -> None:
        """Show that ``step`` steps are done, with a few values beside.

        Cheap enough for every step: tensors are read, which waits for the device, only
        when something is drawn.

        Args:
            step: Number of steps done so far, those before ``resume_step`` included.
            **shown: Values to show.
        """
        if not self._progress:
            return
        if self._bar is not None:
            pause = _SECONDS_BETWEEN_REDRAWS
        else:
            pause = _SECONDS_BETWEEN_LINES
        now = time.monotonic()
        if now - self._shown_at < pause and step < self._total:
            return
        self._shown_at = now
        texts = {name: v for name, v in shown.items() if isinstance(v, str)}
        numbers = {name: v for name, v in shown.items() if not isinstance(v, str)}
        texts |= {name: f"{value:.4g}" for name, value in _to_host(numbers).items()}
        values = "  ".join(f"{name} {texts[name]}" for name in shown)
        if self._bar is not None:
            self._bar.set_postfix_str(values, refresh=False)
            self._bar.update(step - self._bar.n)
            self._bar.refresh()
            return
        print(
            f"{self._description}  {step}/{self._total}"
            f"{self._remaining(step, now)}  {values}".rstrip(),
            file=sys.stderr,
            flush=True,
        )

    def _remaining(self, step: int, now: float) -> str:
        done = step - self._resume_step
        if done <= 0 or step >= self._total:
            return ""
        seconds = (now - self._started) / done * (self._total - step)
        return f"  {tqdm.format_interval(int(seconds))} left"


def _keep_lines_before(path: Path, step: int) -> None:
    if not path.is_file():  # absent, or a device such as /dev/null
        return
    old = path.read_bytes()
    new = b"".join(
        line + b"\n" for line in old.split(b"\n") if _step_of(line, default=step) < step
    )
    if new != old:
        atomic_write_bytes(path, new)


def _step_of(line: bytes, *, default: int) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):  # torn, or not one of our lines
        return default


def _to_host(scalars: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Every value as a Python number, with one transfer for all tensors of a device."""
    values = {k: v for k, v in scalars.items() if not isinstance(v, Tensor)}
    tensors = {k: v.detach() for k, v in scalars.items() if isinstance(v, Tensor)}
    for device in {tensor.device for tensor in tensors.values()}:
        names = [name for name, tensor in tensors.items() if tensor.device == device]
        stacked = torch.stack([tensors[n].reshape(()).float() for n in names])
        # A float32 has seven digits; the rest of its double is noise in a log.
        values |= zip(names, (float(f"{v:.7g}") for v in stacked.tolist()), strict=True)
    return {name: values[name] for name in scalars}


def _jsonable(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_error(error: OSError, path: Path) -> RunError:
    if error.errno in _DISK_FULL:
        return RunError(
            f"no space left on device while writing {path}: "
            "free some space and run the same command again"
        )
    return RunError(
        f"cannot write {path} ({error.strerror or error}): "
        "check that its folder exists and is writable, or choose another"
    )
