"""``condense evaluate`` and ``condense audit``."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from condense_core.artefact import CondensedDataset
from condense_core.audit import NO_PROOF, audit
from condense_core.cli.files import check_target, read_splits, write_json
from condense_core.cli.repeats import Repeats
from condense_core.compute.devices import resolve_device
from condense_core.config.presets import flips
from condense_core.data.stored_sets import is_stored_set, load_stored_set
from condense_core.diversity import measure_diversity, summary
from condense_core.errors import ConfigError
from condense_core.evaluate import EvaluationReport, evaluate, library_versions
from condense_core.references import REFERENCES, evaluate_reference
from condense_core.training import resolve_recipe


def evaluate_set(arguments: argparse.Namespace) -> None:
    """``condense evaluate``; with ``--json FILE`` one that is stopped goes on."""
    check_target(arguments.json)
    recipe = resolve_recipe(arguments.recipe)
    device = resolve_device(arguments.device)
    what = arguments.what
    stored = _is_stored(what, arguments)
    like = {}
    if what.endswith(".safetensors") and Path(what).exists():
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
    chosen = load_stored_set(Path(what), test.classes) if stored else None
    settings: dict[str, Any] = {
        "recipe": recipe,
        "width": arguments.width,
        "seed": arguments.seed,
        "flip": flips(arguments.dataset) if arguments.flip is None else arguments.flip,
        "statistics": (chosen and chosen.statistics) or train.statistics(),
    }
    out = sys.stderr if arguments.json == "-" else sys.stdout
    measured = {}
    if chosen is not None and arguments.diversity is not None:
        measured["diversity"] = measure_diversity(
            *chosen.tensors(),
            train,
            statistics=settings["statistics"],
            extractor=arguments.diversity,
            flip=settings["flip"],
            seed=arguments.seed,
            device=device,
        )
        print(summary(measured["diversity"]), file=out)

    judge: Callable[..., EvaluationReport]
    if chosen is not None:
        settings["max_steps"] = arguments.max_steps
        judge = partial(evaluate, chosen.data, test)
    else:
        settings |= {
            "images_per_class": arguments.ipc,
            "full_max_steps": arguments.max_steps,
            "selection_width": arguments.selection_width,
            "selection_steps": arguments.selection_steps,
        }
        judge = partial(evaluate_reference, what, train, test)
    kept = Repeats(None, {})
    if arguments.json not in (None, "-"):
        images = (train if chosen is None else chosen).fingerprint()
        question = settings | {
            "what": what if chosen is None else "",
            "images": [images, test.fingerprint()],
            "device": str(device),
            "versions": library_versions(),
        }
        kept = Repeats(Path(arguments.json), question)

    def judged(network: str) -> EvaluationReport:
        def on_repeat(repeat: int, accuracy: float) -> None:
            kept.add(network, accuracy)
            count = f"repeat {repeat + 1}/{arguments.repeats}"
            print(f"{count}: {accuracy:.2f} %", file=sys.stderr)

        return judge(
            network=network,
            repeats=arguments.repeats,
            ensemble=arguments.ensemble,
            device=device,
            on_repeat=on_repeat,
            completed=kept.of(network),
            **settings,
        )

    reports = []
    for network in arguments.network.split(","):
        report = judged(network)
        reports.append(report.to_dict() | measured)
        print(
            f"{what} on {test.name}: {report.accuracy_mean:.2f} ± "
            f"{report.accuracy_std:.2f} % ({report.repeats} x {network} of width "
            f"{report.width}, {report.recipe}, {report.images} images, "
            f"{report.bytes:,} bytes)",
            file=out,
        )
    write_json(arguments.json, reports[0] if len(reports) == 1 else reports)
    kept.close()


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
            f"unknown WHAT {what!r}: name a file, a folder or one of "
            f"{', '.join(REFERENCES)}"
        )
    return True


def audit_artefact(arguments: argparse.Namespace) -> None:
    """``condense audit``."""
    check_target(arguments.json)
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
    if text is None or Path(text).is_file():
        return text
    return text.split(",")
