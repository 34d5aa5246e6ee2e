"""What the subcommands of ``condense`` do with their arguments.

Heavy modules are imported by the subcommand that needs them, so that ``--help`` and
usage errors are instant.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condense_core.cli.files import check_folder, check_target, read_splits, write_json
from condense_core.errors import ConfigError

if TYPE_CHECKING:
    from condense_core.config import CondenseConfig
    from condense_core.data import ImageData


def run(arguments: argparse.Namespace) -> None:
    """``condense run``."""
    from condense_core.compute.devices import resolve_device
    from condense_core.compute.distributed import check_ranks, process_group
    from condense_core.config import CondenseConfig
    from condense_core.report.page import results_table
    from condense_core.runs.experiment import (
        check_experiment,
        load_splits,
        run_experiment,
    )
    from condense_core.runs.pace import schedule
    from condense_core.runs.run import memory_advice

    name, config = _config(arguments.config)
    config = config.with_overrides(arguments.overrides)
    if arguments.time_budget is not None:
        config = config.with_overrides([f"time_budget={arguments.time_budget}"])
    _check_evaluation(config)
    resolve_device(arguments.device)
    train, test, note = load_splits(
        config,
        data_root=arguments.data_root,
        download=arguments.download,
        cache=arguments.cache,
        skip_corrupt=arguments.skip_corrupt,
    )
    check_experiment(train, config)
    out = arguments.out or Path("runs") / name
    expected = None

    def announce() -> None:
        print(_summary(train, test, config, out), file=sys.stderr)
        if expected is not None:
            print(f"expected: {expected}", file=sys.stderr)
        if note is not None:
            print(note, file=sys.stderr)

    with process_group(arguments.device) as (ranks, device):
        check_ranks(config, train.num_classes, ranks)
        place = resolve_device(device)
        if ranks.first and (config.time_budget is not None or not arguments.dry_run):
            with memory_advice():
                config, expected = schedule(train, test, config, out=out, device=place)
        # The other processes do what the first found time for.
        config = CondenseConfig.from_dict(ranks.from_first(config.to_dict, place))
        if arguments.dry_run:
            if ranks.first:
                announce()
                print(config.to_yaml(), end="")
            return
        report = run_experiment(
            train,
            test,
            config,
            out=out,
            device=device,
            on_start=announce,
            expected=expected,
            ranks=ranks,
        )
    if not ranks.first:
        return
    print(
        f"{report['dataset']}, recipe {report['recipe']}, {report['network']} of width "
        f"{report['width']}:"
    )
    print(results_table(report))
    print(f"report: {out / 'report.html'}")


def teacher(arguments: argparse.Namespace) -> None:
    """``condense teacher``."""
    from condense_core.compute.devices import resolve_device
    from condense_core.runs.experiment import load_splits
    from condense_core.teacher import train_teacher_file
    from condense_core.training import accuracy

    _, config = _config(arguments.config)
    config = config.with_overrides(arguments.overrides)
    device = resolve_device(arguments.device)
    check_folder("--out", arguments.out)
    train, test, note = load_splits(
        config,
        data_root=arguments.data_root,
        download=arguments.download,
        cache=arguments.cache,
        skip_corrupt=arguments.skip_corrupt,
    )
    if note is not None:
        print(note, file=sys.stderr)
    teacher = train_teacher_file(arguments.out, train, config, device=device)
    held = test.to(device)
    score = accuracy(teacher, held.images, held.labels, train.statistics())
    print(
        f"{arguments.out}: {score:.2f} % of {len(test)} test images of {train.name} "
        f"after {config.teacher.steps} steps; use it with --set "
        f"teacher.path={arguments.out}"
    )


def _config(name: str) -> "tuple[str, CondenseConfig]":
    from condense_core.config import CondenseConfig

    if name.endswith((".yaml", ".yml")):
        return Path(name).stem, CondenseConfig.from_yaml(name)
    return name, CondenseConfig.preset(name)


def _check_evaluation(config: "CondenseConfig") -> None:
    """Refuse a wrong recipe, reference or network before hours of work, not after."""
    from condense_core.networks import NETWORKS
    from condense_core.references import REFERENCES
    from condense_core.training import resolve_recipe

    resolve_recipe(config.evaluate.recipe)
    for name in config.evaluate.baselines:
        if name not in REFERENCES:
            raise ConfigError(
                f"evaluate.baselines has {name!r}: choose from {', '.join(REFERENCES)}"
            )
    if config.evaluate.network not in NETWORKS:
        raise ConfigError(
            f"evaluate.network is {config.evaluate.network!r}: choose from "
            f"{', '.join(NETWORKS)}"
        )


def _summary(
    train: "ImageData", test: "ImageData", config: "CondenseConfig", out: Path
) -> str:
    channels, height, width = train.image_shape
    count = config.format.images_per_class
    return (
        f"{train.name}: {len(train)} training and {len(test)} test images of "
        f"{height}x{width} px, {channels} channel{'s' if channels > 1 else ''}, "
        f"{train.num_classes} classes -> {count} image{'s' if count > 1 else ''} a "
        f"class ({config.format.kind}), {config.loop.total} updates, in {out}"
    )


def evaluate_set(arguments: argparse.Namespace) -> None:
    """``condense evaluate``."""
    from condense_core.compute.devices import resolve_device
    from condense_core.config.presets import flips
    from condense_core.data.stored_sets import is_stored_set, load_stored_set
    from condense_core.evaluate import evaluate
    from condense_core.references import REFERENCES, evaluate_reference
    from condense_core.training import resolve_recipe

    check_target(arguments.json)
    recipe = resolve_recipe(arguments.recipe)
    device = resolve_device(arguments.device)
    what = arguments.what
    stored = what not in REFERENCES
    if stored and not is_stored_set(what):
        raise ConfigError(
            f"unknown WHAT {what!r}: name a file, a folder or one of "
            f"{', '.join(REFERENCES)}"
        )
    if arguments.diversity is not None and not stored:
        raise ConfigError(
            f"--diversity measures a file or folder, not {what!r}: leave it out"
        )
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
    flip = flips(arguments.dataset) if arguments.flip is None else arguments.flip
    reports = []
    measured = {}
    if arguments.diversity is not None:
        from condense_core.diversity import measure_diversity, summary

        training_set = load_stored_set(Path(what), test.classes)
        measured["diversity"] = measure_diversity(
            *training_set.tensors(),
            train,
            statistics=training_set.statistics or train.statistics(),
            extractor=arguments.diversity,
            flip=flip,
            seed=arguments.seed,
            device=device,
        )
        print(
            summary(measured["diversity"]),
            file=sys.stderr if arguments.json == "-" else sys.stdout,
        )
    for network in arguments.network.split(","):
        settings: dict[str, Any] = {
            "recipe": recipe,
            "network": network,
            "width": arguments.width,
            "repeats": arguments.repeats,
            "ensemble": arguments.ensemble,
            "seed": arguments.seed,
            "device": device,
            "flip": flip,
            "on_repeat": lambda repeat, accuracy: print(
                f"repeat {repeat + 1}/{arguments.repeats}: {accuracy:.2f} %",
                file=sys.stderr,
            ),
        }
        if stored:
            training_set = load_stored_set(Path(what), test.classes)
            report = evaluate(
                training_set.data,
                test,
                statistics=training_set.statistics or train.statistics(),
                max_steps=arguments.max_steps,
                **settings,
            )
        else:
            report = evaluate_reference(
                what,
                train,
                test,
                images_per_class=arguments.ipc,
                statistics=train.statistics(),
                full_max_steps=arguments.max_steps,
                selection_width=arguments.selection_width,
                selection_steps=arguments.selection_steps,
                **settings,
            )
        reports.append(report.to_dict() | measured)
        print(
            f"{what} on {test.name}: {report.accuracy_mean:.2f} ± "
            f"{report.accuracy_std:.2f} % ({report.repeats} x {network} of width "
            f"{report.width}, {report.recipe}, {report.images} images, "
            f"{report.bytes:,} bytes)",
            file=sys.stderr if arguments.json == "-" else sys.stdout,
        )
    write_json(arguments.json, reports[0] if len(reports) == 1 else reports)


def _class_list(text: str | None) -> str | list[str] | None:
    """A file by name, or names by commas."""
    if text is None or Path(text).is_file():
        return text
    return text.split(",")


def audit_artefact(arguments: argparse.Namespace) -> None:
    """``condense audit``."""
    from condense_core.artefact import CondensedDataset
    from condense_core.audit import NO_PROOF, audit
    from condense_core.compute.devices import resolve_device

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


def inspect(arguments: argparse.Namespace) -> None:
    """``condense inspect``."""
    from condense_core.artefact import CondensedDataset

    condensed = CondensedDataset.load(arguments.artefact)
    content = {
        "classes": list(condensed.classes),
        "ipc": condensed.images_per_class,
        "image_shape": list(condensed.image_shape),
        "bytes": condensed.nbytes,
        "bytes_by_part": condensed.bytes_by_part(),
        "pixel_bytes": condensed.pixel_bytes,
        "bits_per_class": condensed.bits_per_class,
        "precision": condensed.precision,
        **{k: v for k, v in condensed.metadata.items() if k not in ("classes",)},
    }
    if arguments.json is not None:
        write_json(arguments.json, content)
        return
    names = ", ".join(condensed.classes[:20])
    more = f", ... ({len(condensed.classes)})" if len(condensed.classes) > 20 else ""
    channels, height, width = condensed.image_shape
    lines = {
        "classes": names + more,
        "images": f"{condensed.images_per_class} per class, {height}x{width} px, "
        f"{channels} channel(s)",
        "format": f"{condensed.spec.kind}, {condensed.precision}",
        "bytes": f"{condensed.nbytes:,} "
        f"({', '.join(f'{k} {v:,}' for k, v in condensed.bytes_by_part().items())})",
        "as 8-bit pixels": f"{condensed.pixel_bytes:,} bytes",
        "bits per class": f"{condensed.bits_per_class:,.0f}",
        "data": json.dumps(condensed.metadata.get("data")),
        "versions": json.dumps(condensed.metadata.get("versions")),
        "digest": condensed.digest,
    }
    for key, value in lines.items():
        print(f"{key:<16} {value}")


def export_images(arguments: argparse.Namespace) -> None:
    """``condense export``."""
    from condense_core.artefact import CondensedDataset
    from condense_core.artefact.export import export

    condensed = CondensedDataset.load(arguments.artefact)
    print(export(condensed, format=arguments.format, out=arguments.out))


def report(arguments: argparse.Namespace) -> None:
    """``condense report``."""
    from condense_core.report.page import write_report

    print(write_report(arguments.run_dir))
