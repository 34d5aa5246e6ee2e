"""``condense evaluate`` and ``condense audit``."""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from condense_core.artefact import CondensedDataset
from condense_core.artefact.stored_sets import (
    ARTEFACT,
    KINDS,
    StoredSet,
    load_stored_set,
)
from condense_core.audit import NO_PROOF, audit
from condense_core.cli.files import (
    check_target,
    is_stored_set,
    read_splits,
    write_json,
)
from condense_core.cli.repeats import Repeats
from condense_core.compute.devices import resolve_device
from condense_core.config.presets import flips
from condense_core.config.strict import at_least
from condense_core.data import ImageData
from condense_core.diversity import measure_diversity, summary
from condense_core.errors import ConfigError
from condense_core.evaluate import (
    EvaluationReport,
    evaluate,
    require_network,
)
from condense_core.references import FULL, REFERENCES, evaluate_reference
from condense_core.training import resolve_recipe
from condense_core.versions import library_versions


@dataclass(frozen=True, slots=True)
class _Case:
    """What is judged, against which real images, on what terms.

    Attributes:
        what: A file, a folder, or the name of a reference.
        stored: What the file or folder holds; None for a reference, which chooses
            among ``train``.
        train: Real training images.
        test: Real test images.
        device: Where networks are trained.
        settings: What every network has in common, for `evaluate` or
            `evaluate_reference`.
    """

    what: str
    stored: StoredSet | None
    train: ImageData
    test: ImageData
    device: torch.device
    settings: dict[str, Any]

    def question(self) -> dict[str, Any]:
        """All that an accuracy depends on but the kind of network, see `Repeats`."""
        images = self.train if self.stored is None else self.stored
        return self.settings | {
            "what": self.what if self.stored is None else "",
            "images": [images.fingerprint(), self.test.fingerprint()],
            "device": str(self.device),
            "versions": library_versions(),
        }

    def judge(self, **options: Any) -> EvaluationReport:
        """Train networks, with what `evaluate` takes beyond the settings."""
        options |= self.settings | {"device": self.device}
        if self.stored is not None:
            return evaluate(self.stored.data, self.test, **options)
        return evaluate_reference(self.what, self.train, self.test, **options)


def evaluate_set(arguments: argparse.Namespace) -> None:
    """``condense evaluate``; with ``--json FILE`` one that is stopped goes on."""
    check_target(arguments.json)
    out = sys.stderr if arguments.json == "-" else sys.stdout
    case = _read_case(arguments)
    measured = _diversity(case, arguments, out)
    kept = Repeats(None, {})
    if arguments.json not in (None, "-"):
        kept = Repeats(Path(arguments.json), case.question())

    reports = []
    for network in arguments.network.split(","):
        report = case.judge(
            network=network,
            repeats=arguments.repeats,
            ensemble=arguments.ensemble,
            on_repeat=partial(_keep, kept, network, arguments.repeats),
            completed=kept.of(network),
        )
        reports.append(report.to_dict() | measured)
        print(
            f"{case.what} on {case.test.name}: {report.accuracy_mean:.2f} ± "
            f"{report.accuracy_std:.2f} % ({report.repeats} x {network} of width "
            f"{report.width}, {report.recipe}, {report.images} images, "
            f"{report.bytes:,} bytes)",
            file=out,
        )
    write_json(arguments.json, reports[0] if len(reports) == 1 else reports)
    kept.close()


def _read_case(arguments: argparse.Namespace) -> _Case:
    """Check the words of ``condense evaluate`` and read what they name."""
    recipe, device = resolve_recipe(arguments.recipe), resolve_device(arguments.device)
    for option in ("repeats", "max_steps", "ipc", "selection_width", "selection_steps"):
        at_least(f"--{option.replace('_', '-')}", getattr(arguments, option), 1)
    at_least("--seed", arguments.seed, 0)
    what = arguments.what
    is_stored = _is_stored(what, arguments)
    like = {}
    if what.lower().endswith(ARTEFACT) and os.path.isfile(what):
        like = load_stored_set(Path(what), ()).config
    train, test, note = read_splits(
        arguments.dataset,
        data_root=arguments.data_root,
        download=arguments.download,
        like=like,
        image_size=tuple(arguments.image_size) if arguments.image_size else None,
        channels=arguments.channels,
        classes=_class_list(arguments.classes),
        cache=arguments.cache,
        skip_corrupt=arguments.skip_corrupt,
    )
    if note is not None:
        print(note, file=sys.stderr)
    stored = load_stored_set(Path(what), test.classes) if is_stored else None
    settings: dict[str, Any] = {
        "recipe": recipe,
        "width": arguments.width,
        "seed": arguments.seed,
        "flip": _flip(arguments, like),
        "statistics": (stored and stored.statistics) or train.statistics(),
    }
    settings["full_max_steps" if what == FULL else "max_steps"] = arguments.max_steps
    if stored is None:
        settings |= {
            "images_per_class": arguments.ipc,
            "selection_width": arguments.selection_width,
            "selection_steps": arguments.selection_steps,
        }
    for network in arguments.network.split(","):
        require_network(network, arguments.width, test)
    return _Case(what, stored, train, test, device, settings)


def _flip(arguments: argparse.Namespace, like: Mapping[str, Any]) -> bool:
    """As asked for, else as the run that made the artefact had it, else by data set."""
    if arguments.flip is not None:
        return bool(arguments.flip)
    data = like.get("data")
    own = data.get("flip") if isinstance(data, dict) else None
    return own if isinstance(own, bool) else flips(arguments.dataset)


def _diversity(
    case: _Case, arguments: argparse.Namespace, out: TextIO
) -> dict[str, Any]:
    """Print what ``--diversity`` asks for; its entry of the report."""
    if case.stored is None or arguments.diversity is None:
        return {}
    found = measure_diversity(
        *case.stored.tensors(),
        case.train,
        statistics=case.settings["statistics"],
        extractor=arguments.diversity,
        flip=case.settings["flip"],
        seed=arguments.seed,
        device=case.device,
    )
    print(summary(found), file=out)
    return {"diversity": found}


def _keep(
    kept: Repeats, network: str, repeats: int, repeat: int, accuracy: float
) -> None:
    kept.add(network, accuracy)
    print(f"repeat {repeat + 1}/{repeats}: {accuracy:.2f} %", file=sys.stderr)


def _is_stored(what: str, arguments: argparse.Namespace) -> bool:
    """Whether WHAT is a file or folder rather than the name of a reference.

    Raises:
        ConfigError: It is neither, or a reference is asked for its diversity.
    """
    if what in REFERENCES:
        if arguments.diversity is not None:
            raise ConfigError(
                f"--diversity measures a file or folder, not {what!r}: leave it out"
            )
        return False
    if not is_stored_set(what):
        raise ConfigError(
            f"unknown WHAT {what!r}: name {KINDS}, or one of {', '.join(REFERENCES)}"
        )
    return True


def audit_artefact(arguments: argparse.Namespace) -> None:
    """``condense audit``."""
    check_target(arguments.json)
    at_least("--seed", arguments.seed, 0)
    device = resolve_device(arguments.device)
    condensed = CondensedDataset.load(arguments.artefact, device=device)
    config = condensed.metadata.get("config")
    members, non_members, note = read_splits(
        arguments.dataset,
        data_root=arguments.data_root,
        download=arguments.download,
        like=config if isinstance(config, dict) else {},
        cache=arguments.cache,
        skip_corrupt=arguments.skip_corrupt,
    )
    report = audit(
        condensed,
        members,
        non_members,
        limit=arguments.limit,
        seed=arguments.seed,
        device=device,
    )
    for line in (note, report.warning()):
        if line is not None:
            print(line, file=sys.stderr)
    out = sys.stderr if arguments.json == "-" else sys.stdout
    print(
        f"{arguments.artefact}: {report.members} training images of {report.dataset} "
        f"against as many test images\n{report.table()}\n{NO_PROOF}",
        file=out,
    )
    write_json(arguments.json, report.to_dict())


def _class_list(text: str | None) -> str | list[str] | None:
    """A file by name, or names by commas."""
    try:
        is_file = text is None or Path(text).is_file()
    except OSError:  # a list longer than the name of a file can be
        is_file = False
    return text if is_file or text is None else text.split(",")
