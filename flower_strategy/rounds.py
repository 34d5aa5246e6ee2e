"""The rounds of a run on disk: each is a folder that is complete or absent.

``round-001/`` holds ``global.safetensors``, one artefact per client in ``clients/``,
and ``round.json``; nothing in it is pickled. A server that was killed resumes from the
newest one. ``round-000/`` has what the clients sent before the first training.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import safetensors
from flwr.app import ArrayRecord
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from condense_core import CondensedDataset, ConfigError, RunError
from condense_core.runlog import atomic_write_bytes, atomic_write_text
from flower_strategy.payload import Contribution, Limits
from flower_strategy.settings import ModelSettings

REPORT = "round.json"
VERSION = 1  # of its content; another one is refused


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """What happened in a round, ready for JSON.

    Attributes:
        server_round: Number of the round, from 1.
        accepted: Names of the clients whose contributions were accepted.
        rejected: Reason by client or node: refused, failed, or dropped as an outlier.
        missing: Number of clients that were asked but did not answer in time.
        bytes_up: Content of all replies that arrived, including refused ones.
        bytes_down: Content of all messages sent, including those for evaluation.
        wire_up: ``bytes_up`` with Flower's envelopes, see `flower_strategy.traffic`.
        wire_down: Likewise ``bytes_down``, with the acknowledgements of uploads.
        seconds: Wall time of the round, including training.
        client_seconds: Time each client says it took.
        synthetic_images: Number of images the global model was trained on.
        accuracy: Of the global model on the server's test images, in percent.
        client_accuracy: Likewise on the clients' held-out images.
        client_images: Number of held-out images behind ``client_accuracy``.
        untested: Reason by node that was asked to test the global model and did not.
    """

    server_round: int
    accepted: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    wire_up: int = 0
    wire_down: int = 0
    seconds: float = 0.0
    client_seconds: dict[str, float] = field(default_factory=dict)
    synthetic_images: int = 0
    accuracy: float | None = None
    client_accuracy: float | None = None
    client_images: int = 0
    untested: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Everything the server needs to continue after a round.

    Attributes:
        reports: Of all rounds so far.
        contributions: The newest one of each client, by name.
        model: Weights of the global model.
        normalisation: Mean and deviation per channel it was trained with; empty before.
        meaning: See `meaning_of`; empty before the model has weights.
    """

    reports: list[RoundReport] = field(default_factory=list)
    contributions: dict[str, Contribution] = field(default_factory=dict)
    model: Mapping[str, Tensor] = field(default_factory=dict)
    normalisation: tuple[list[float], list[float]] = field(
        default_factory=lambda: ([], [])
    )
    meaning: Mapping[str, Any] = field(default_factory=dict)

    @property
    def server_round(self) -> int:
        """Number of rounds done."""
        return len(self.reports)

    @property
    def trained(self) -> bool:
        """Whether the global model has been trained at least once."""
        return bool(self.normalisation[0])

    @property
    def arrays(self) -> ArrayRecord:
        """Weights of the global model as Flower sends them."""
        return ArrayRecord(dict(self.model))

    def after(self, report: RoundReport, **changes: Any) -> Self:
        """The state with one more round."""
        return replace(self, reports=[*self.reports, report], **changes)

    def check_meaning(self, meaning: Mapping[str, Any]) -> None:
        """Refuse to go on under settings that would give the state another meaning.

        Raises:
            ConfigError: Names the first setting that differs.
        """
        for name, value in self.meaning.items():
            if (other := meaning.get(name)) != value:
                raise ConfigError(
                    f"the run to resume has {name.replace('_', '-')} {value!r:.80}, "
                    f"this one {other!r:.80}: give it the same, or begin a new run"
                )

    def folder_in(self, folder: Path) -> Path:
        """Where the newest round is, or will be, in a folder of rounds."""
        return folder / f"round-{self.server_round:03d}"

    def save(self, folder: Path) -> None:
        """Write the newest round; if interrupted, the round is as if never written.

        Raises:
            RunError: The disk is full or the folder cannot be written.
        """
        final = self.folder_in(folder)
        partial = folder / f".{final.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "clients").mkdir(parents=True)
        except OSError as error:
            raise RunError(
                f"cannot write {partial} ({error.strerror}): choose another save-to"
            ) from error
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.model.items()}
        atomic_write_bytes(partial / "global.safetensors", save_tensors(tensors))
        for name, contribution in self.contributions.items():
            contribution.condensed.save(partial / "clients" / f"{name}.safetensors")
        content = {
            "version": VERSION,
            "meaning": dict(self.meaning),
            "reports": [asdict(report) for report in self.reports],
            "normalisation": list(self.normalisation),
            "clients": {
                name: {
                    "class_ids": list(c.class_ids),
                    "counts": list(c.counts),
                    "privacy": c.privacy,
                    "nbytes": c.nbytes,
                    "digest": c.condensed.digest,
                }
                for name, c in self.contributions.items()
            },
        }
        atomic_write_text(partial / REPORT, json.dumps(content, indent=2) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The newest complete round in a folder; an empty state if there is none.

        The folder of one round gives that one.

        Raises:
            RunError: The folder does not exist, or a file in it is damaged or of
                another version.
        """
        if not folder.is_dir():
            raise RunError(
                f"there is no folder {folder} to resume from: check the path"
            )
        rounds = [folder] if (folder / REPORT).is_file() else _saved(folder)
        if not rounds:
            return cls()
        newest = rounds[-1]
        try:
            content = json.loads((newest / REPORT).read_text())
            if (version := content.get("version")) != VERSION:
                raise RunError(
                    f"{newest} is of version {version!r:.20}, this is version "
                    f"{VERSION}: begin a new run, in another folder"
                )
            return cls(
                reports=[RoundReport(**report) for report in content["reports"]],
                contributions={
                    name: _contribution(newest, name, stored)
                    for name, stored in content["clients"].items()
                },
                model=load_tensors((newest / "global.safetensors").read_bytes()),
                normalisation=tuple(content["normalisation"]),
                meaning=dict(content["meaning"]),
            )
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            safetensors.SafetensorError,
        ) as error:
            raise RunError(
                f"{newest} is damaged ({error!r:.80}): remove it to resume from the "
                "previous round"
            ) from error


def meaning_of(model: ModelSettings, limits: Limits) -> dict[str, Any]:
    """What decides which labels, weights and draws a state stands for; JSON-ready."""
    return {
        "classes": list(limits.classes),
        "image_shape": list(limits.image_shape),
        "network": model.network,
        "network_width": model.network_width,
        "low_pass": model.low_pass,
        "seed": model.seed,
    }


def refuse_rounds(folder: Path) -> None:
    """Refuse a folder with rounds of another run: resuming would continue that one.

    Raises:
        ConfigError: There are some.
    """
    if _saved(folder):
        raise ConfigError(
            f"save-to {folder} holds rounds of another run: set resume-from to "
            "continue it, or choose another folder"
        )


def _saved(folder: Path) -> list[Path]:
    """The complete rounds in a folder, in order; none if it does not exist."""
    return sorted(folder.glob("round-[0-9][0-9][0-9]*"), key=_number)


def _contribution(folder: Path, name: str, stored: Mapping[str, Any]) -> Contribution:
    condensed = CondensedDataset.load(folder / "clients" / f"{name}.safetensors")
    if condensed.digest != stored["digest"]:
        raise ValueError(f"another artefact in the place of {name}'s")
    return Contribution(
        client=name,
        condensed=condensed,
        class_ids=tuple(stored["class_ids"]),
        counts=tuple(stored["counts"]),
        privacy=stored["privacy"],
        nbytes=stored["nbytes"],
    )


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix("round-")
    return int(digits) if digits.isdigit() else -1
