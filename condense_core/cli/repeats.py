"""Accuracies of an evaluation under way, kept beside the report they are for."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from condense_core.runlog import atomic_write_text


class Repeats:
    """Accuracies of the networks trained so far, in ``REPORT.partial`` until the end.

    They count only for the same question: an evaluation of other images, or by another
    recipe, begins anew.

    Args:
        report: File of the report; without one nothing is kept.
        question: Everything that an accuracy depends on, but for the kind of network:
            plain values and dataclasses.

    Example:
        >>> import tempfile
        >>> report = Path(tempfile.mkdtemp()) / "report.json"
        >>> Repeats(report, {"seed": 0}).add("convnet", 81.5)
        >>> Repeats(report, {"seed": 0}).of("convnet")
        (81.5,)
        >>> Repeats(report, {"seed": 1}).of("convnet")
        ()
    """

    def __init__(self, report: Path | None, question: Mapping[str, Any]) -> None:
        text = json.dumps(question, sort_keys=True, default=asdict)
        self._question = hashlib.sha256(text.encode()).hexdigest()
        self._path = report and report.with_name(f"{report.name}.partial")
        self._accuracies: dict[str, list[float]] = {}
        if self._path is not None and self._path.exists():
            kept = _read(self._path)
            if kept.get("question") == self._question:
                self._accuracies = kept["accuracies"]

    def of(self, network: str) -> tuple[float, ...]:
        """Accuracies of the networks of a kind, in their order."""
        return tuple(self._accuracies.get(network, ()))

    def add(self, network: str, accuracy: float) -> None:
        """Keep the accuracy of the next network of a kind."""
        self._accuracies.setdefault(network, []).append(accuracy)
        if self._path is not None:
            content = {"question": self._question, "accuracies": self._accuracies}
            atomic_write_text(self._path, json.dumps(content) + "\n")

    def close(self) -> None:
        """Forget them: the report is written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """Content of a file that this module wrote; nothing if it did not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
