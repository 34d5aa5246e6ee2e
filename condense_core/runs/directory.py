"""A run directory: what is in it, which run may use it, how that resumes.

``checkpoint/`` holds one file for every stage that is done and the state of the one
that is not; it is deleted when the run is finished. Every file is replaced atomically,
so that a run can be killed at any moment.
"""

import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from condense_core.artefact import CondensedDataset
from condense_core.config import CondenseConfig
from condense_core.errors import RunError
from condense_core.runlog import (
    CHECKPOINT_SECONDS,
    atomic_write_bytes,
    atomic_write_text,
)


class RunDirectory:
    """Files of one run; with ``path`` None everything is kept in memory.

    Attributes:
        path: The directory, or None.
    """

    def __init__(self, path: Path | None) -> None:
        """Use `open` instead."""
        self.path = path
        self._memory: dict[str, Any] = {}
        self._saved_at = time.monotonic()

    @classmethod
    def open(
        cls, path: str | Path | None, config: CondenseConfig, fingerprint: str
    ) -> "RunDirectory":
        """Create a run directory, or continue in the one that holds this very run.

        Args:
            path: The directory; None keeps nothing on disk.
            config: Resolved configuration, compared with the one in the directory.
            fingerprint: Of the training data, likewise.

        Raises:
            RunError: The directory holds another run or other files, or cannot be
                written.
            ArtefactError: The artefact in the directory is damaged.
        """
        if path is None:
            return cls(None)
        path = Path(path)
        run = cls(path)
        # All checks come before the first write: the folder may be someone else's.
        holds = run.check(config, fingerprint)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not {"report.json", "condensed.safetensors"} <= holds:
                (path / "checkpoint").mkdir(exist_ok=True)
        except OSError as error:
            raise _unusable(path, error) from error
        if (path / "checkpoint").is_dir():
            run.write_json("checkpoint/data.json", fingerprint)
        atomic_write_text(path / "config.yaml", config.to_yaml())
        return run

    def check(self, config: CondenseConfig, fingerprint: str) -> set[str]:
        """Names in the directory, if it is free or holds this very run; writes nothing.

        Raises:
            RunError: As `open`.
            ArtefactError: As `open`.
        """
        path = self.path
        if path is None:
            return set()
        try:
            if path.exists() and not path.is_dir():
                raise RunError(f"{path} is a file: choose another --out")
            holds = {entry.name for entry in path.iterdir()} if path.exists() else set()
        except OSError as error:
            raise _unusable(path, error) from error
        if "config.yaml" in holds:
            self._require_same(config, fingerprint)
        elif any(not name.startswith(".") for name in holds - {"checkpoint"}):
            raise RunError(
                f"{path} is not empty and holds no run: choose another --out"
            )
        return holds

    def _require_same(self, config: CondenseConfig, fingerprint: str) -> None:
        assert self.path is not None
        old = CondenseConfig.from_yaml(self.path / "config.yaml").to_dict()
        if old != config.to_dict():
            raise RunError(
                f"{self.path} holds another run "
                f"({_first_difference(old, config.to_dict())}): choose another --out "
                "or delete it"
            )
        known = self.read_json("checkpoint/data.json")
        artefact = self.path / "condensed.safetensors"
        if artefact.exists():
            source = CondensedDataset.load(artefact).metadata.get("data")
            known = source.get("fingerprint", "") if isinstance(source, dict) else ""
        if known not in (None, fingerprint):
            raise RunError(
                f"{self.path} holds a run on other data (its fingerprint differs): "
                "choose another --out or delete it"
            )

    def file(self, name: str) -> Path | None:
        """Path of a file in the directory, or None in memory."""
        return None if self.path is None else self.path / name

    def save(self, stage: str, state: Any) -> None:
        """Keep the state of a stage: ``checkpoint/STAGE.pt``, tensors and plain values.

        Raises:
            RunError: The disk is full or the directory cannot be written.
        """
        self._saved_at = time.monotonic()
        if self.path is None:
            self._memory[stage] = state
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        atomic_write_bytes(self._checkpoint(stage), buffer.getvalue())

    def save_sometimes(self, stage: str, state: Any) -> None:
        """`save`, but at most every 20 seconds; ``state`` is called when it is time."""
        due = time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS
        if self.path is not None and due:
            self.save(stage, state())

    def load(self, stage: str, device: torch.device) -> Any:
        """State of a stage, or None if it has none.

        Raises:
            RunError: The file is not readable.
        """
        if self.path is None:
            return self._memory.get(stage)
        path = self._checkpoint(stage)
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise RunError(
                f"cannot read {path} ({type(error).__name__}): delete {path.parent} "
                "to start the run anew"
            ) from error

    def read_json(self, name: str) -> Any:
        """Content of a JSON file in the directory, or None if absent or damaged."""
        if self.path is None:
            return self._memory.get(name)
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        if self.path is None:
            self._memory[name] = content
        else:
            text = json.dumps(content, indent=2, allow_nan=False) + "\n"
            atomic_write_text(self.path / name, text)

    def finish(self) -> None:
        """Delete the checkpoint: the run is complete."""
        if self.path is not None and (self.path / "checkpoint").is_dir():
            # Renamed first, so that a kill in between leaves no half checkpoint.
            old = self.path / f".checkpoint.{os.getpid()}"
            shutil.rmtree(old, ignore_errors=True)
            (self.path / "checkpoint").rename(old)
            shutil.rmtree(old)

    def _checkpoint(self, stage: str) -> Path:
        assert self.path is not None
        return self.path / "checkpoint" / f"{stage}.pt"


def _unusable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot use {path} ({error.strerror}): choose another --out or change its "
        "permissions"
    )


def _first_difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *old]:
            if old.get(key) != new.get(key):
                where = f"{path}.{key}" if path else key
                return _first_difference(old.get(key), new.get(key), where)
    return f"{path} was {old!r}, now {new!r}"
