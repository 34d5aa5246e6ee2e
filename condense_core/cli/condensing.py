"""``condense run`` and ``condense teacher``."""

import argparse
import shlex
import sys
from pathlib import Path

from condense_core.cli.files import check_folder, check_writable, is_path
from condense_core.compute.devices import resolve_device
from condense_core.compute.distributed import check_ranks, own_device, process_group
from condense_core.compute.mode import check_compute
from condense_core.config import CondenseConfig
from condense_core.data import ImageData
from condense_core.report.page import results_table
from condense_core.runs.directory import RunDirectory
from condense_core.runs.experiment import (
    check_experiment,
    load_splits,
    run_experiment,
)
from condense_core.runs.pace import schedule
from condense_core.runs.run import memory_advice
from condense_core.teacher import train_teacher_file
from condense_core.training import accuracy


def run(arguments: argparse.Namespace) -> None:
    """``condense run``."""
    name, config = _config(arguments.config)
    config = config.with_overrides(arguments.overrides)
    if arguments.time_budget is not None:
        config = config.with_overrides([f"time_budget={arguments.time_budget}"])
    device = own_device(arguments.device)
    out = arguments.out or Path("runs") / name
    check_writable("--out", out)
    train, test, note = load_splits(
        config,
        data_root=arguments.data_root,
        download=arguments.download,
        cache=arguments.cache,
        skip_corrupt=arguments.skip_corrupt,
    )
    check_experiment(train, config)
    expected = None

    def announce() -> None:
        print(_summary(train, test, config, out), file=sys.stderr)
        if expected is not None:
            print(f"expected: {expected}", file=sys.stderr)
        if note is not None:
            print(note, file=sys.stderr)

    with process_group(device) as ranks:
        check_ranks(config, train.num_classes, ranks)
        check_compute(config, device, world=ranks.world)
        if ranks.first and (config.time_budget is not None or not arguments.dry_run):
            with memory_advice():
                config, expected = schedule(
                    train, test, config, out=out, device=device, world=ranks.world
                )
        # The other processes do what the first found time for.
        config = CondenseConfig.from_dict(ranks.from_first(config.to_dict, device))
        if arguments.dry_run:
            if ranks.first:
                RunDirectory(out).check(config, train.fingerprint())
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
            command=shlex.join(["condense", *sys.argv[1:]]),
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


def _config(name: str) -> tuple[str, CondenseConfig]:
    if Path(name).suffix.lower() in (".yaml", ".yml") or is_path(name):
        return Path(name).stem, CondenseConfig.from_yaml(name)
    return name, CondenseConfig.preset(name)


def _summary(
    train: ImageData, test: ImageData, config: CondenseConfig, out: Path
) -> str:
    channels, height, width = train.image_shape
    count = config.format.images_per_class
    return (
        f"{train.name}: {len(train)} training and {len(test)} test images of "
        f"{height}x{width} px, {channels} channel{'s' if channels > 1 else ''}, "
        f"{train.num_classes} classes -> {count} image{'s' if count > 1 else ''} a "
        f"class ({config.format.kind}), {config.loop.total} updates, in {out}"
    )
