"""The ``condense`` command.

Exit codes: 0 done; 2 bad usage or bad input, with one line on stderr; 1 anything else.
What the subcommands do is in the other files of this folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from condense_core import __version__
from condense_core.artefact.export import FORMATS, RULE
from condense_core.artefact.stored_sets import KINDS
from condense_core.cli import artefacts, condensing, judging
from condense_core.compute.allocator import keep_freed_memory
from condense_core.config.presets import choices
from condense_core.data.sources import SOURCES
from condense_core.errors import CondenseError
from condense_core.networks import NETWORKS
from condense_core.references import REFERENCES
from condense_core.training import RECIPES


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    arguments = _parser().parse_args(argv)
    keep_freed_memory()
    try:
        arguments.run(arguments)
    except CondenseError as error:
        print(f"condense: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; the same command goes on" if _resumes(arguments) else ""
        print(f"condense: interrupted{kept}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return 0


def _resumes(arguments: argparse.Namespace) -> bool:
    """Whether what was interrupted has kept what was done."""
    if arguments.run is judging.evaluate_set:
        return arguments.json not in (None, "-")
    return arguments.run in (condensing.run, condensing.teacher)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="condense",
        description="Condense a data set into a codebook and a generator.",
    )
    parser.add_argument(
        "--version", action="version", version=f"condense {__version__}"
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = subcommands.add_parser("run", help="condense, evaluate and report")
    _add_config(run)
    run.add_argument("--out", type=Path, help="run directory (default: runs/NAME)")
    _add_device(run)
    run.add_argument(
        "--time-budget",
        type=float,
        metavar="SECONDS",
        help="as many updates as let the whole run fit; short for --set time_budget=S",
    )
    run.add_argument("--dry-run", action="store_true", help="check and show, then stop")
    run.set_defaults(run=condensing.run)

    evaluate = subcommands.add_parser("evaluate", help="train networks on a set, test")
    evaluate.add_argument(
        "what",
        metavar="WHAT",
        help=f"{KINDS}, or {', '.join(REFERENCES)}",
    )
    _add_dataset(evaluate, "whose test images")
    evaluate.add_argument(
        "--ipc", type=int, default=1, help="images per class to select (default: 1)"
    )
    evaluate.add_argument(
        "--recipe",
        default="paper-300",
        help=f"{' or '.join(RECIPES)} (default: paper-300)",
    )
    evaluate.add_argument(
        "--network",
        default="convnet",
        metavar="NET[,NET]",
        help=f"{', '.join(NETWORKS)} (default: convnet); of several, --json is a list "
        "with a report of each",
    )
    evaluate.add_argument("--width", type=int, help="channels (default: published)")
    evaluate.add_argument(
        "--repeats",
        type=int,
        default=20,
        help="networks to train of each kind (default: 20)",
    )
    evaluate.add_argument(
        "--ensemble",
        choices=("auto", "vmap", "loop"),
        default="auto",
        help="train the networks side by side (vmap) or one after another (loop)",
    )
    _add_seed(evaluate)
    evaluate.add_argument("--max-steps", type=int, help="cap on optimiser steps")
    evaluate.add_argument(
        "--selection-width", type=int, help="channels of the network that selects"
    )
    evaluate.add_argument(
        "--selection-steps", type=int, help="cap on the steps of that network"
    )
    evaluate.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="resize to this, in pixels (default: as condensed)",
    )
    evaluate.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        help="grey or RGB (default: as condensed)",
    )
    evaluate.add_argument(
        "--classes", metavar="FILE|NAME,NAME", help="only these (default: as condensed)"
    )
    evaluate.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="mirror images when augmenting (default: by data set)",
    )
    evaluate.add_argument(
        "--diversity",
        nargs="?",
        const="trained",
        choices=("trained", "random"),
        help="measure diversity too, of a file or folder, in the features of a network "
        "trained on the real data (default) or random",
    )
    _add_device(evaluate)
    _add_json(evaluate)
    evaluate.set_defaults(run=judging.evaluate_set)

    teacher = subcommands.add_parser(
        "teacher",
        help="train the network of soft labels and class embeddings, for many runs",
    )
    _add_config(teacher)
    teacher.add_argument(
        "--out", type=Path, required=True, help="file, for --set teacher.path=FILE"
    )
    _add_device(teacher)
    teacher.set_defaults(run=condensing.teacher)

    audit = subcommands.add_parser(
        "audit",
        help="attack an artefact: are its training images recognisable?",
        description="Membership inference. Members are the training images of the data "
        "set, non-members its test images: the answer means something only for the "
        "data set the artefact was condensed from.",
    )
    audit.add_argument("artefact", type=Path)
    _add_dataset(audit, "what was condensed")
    audit.add_argument(
        "--limit", type=int, default=2000, help="images of each side (default: 2000)"
    )
    _add_seed(audit)
    _add_device(audit)
    _add_json(audit)
    audit.set_defaults(run=judging.audit_artefact)

    inspect = subcommands.add_parser("inspect", help="say what an artefact holds")
    inspect.add_argument("artefact", type=Path)
    shown = inspect.add_mutually_exclusive_group()
    shown.add_argument(
        "--config", action="store_true", help="print its configuration alone, as YAML"
    )
    shown.add_argument(
        "--json", metavar="FILE", help="write everything as JSON; - for stdout"
    )
    inspect.set_defaults(run=artefacts.inspect)

    export = subcommands.add_parser("export", help="write the images of an artefact")
    export.add_argument("artefact", type=Path)
    export.add_argument(
        "--format",
        required=True,
        choices=tuple(FORMATS),
        help="npz, pt and imagefolder can be evaluated; png is one flat folder",
    )
    export.add_argument("--out", type=Path, required=True, help=RULE)
    export.set_defaults(run=artefacts.export_images)

    report = subcommands.add_parser(
        "report", help="write report.html of a finished run"
    )
    report.add_argument("run_dir", type=Path)
    report.set_defaults(run=artefacts.report)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", metavar="PRESET|CONFIG.yaml", help=f"a file, or {choices()}"
    )
    _add_data_root(parser)
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="override a config value; may be repeated",
    )


def _add_dataset(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument(
        "--dataset", required=True, help=f"{purpose}: {', '.join(SOURCES)}"
    )
    _add_data_root(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="0 or more (default: 0)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the report; - for stdout")


def _add_data_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, help="folder of the data set")
    parser.add_argument(
        "--download", action="store_true", help="let torchvision fetch missing files"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep a decoded copy here (imagenet64: by default in its data root)",
    )
    parser.add_argument(
        "--skip-corrupt",
        action="store_true",
        help="leave out image files that cannot be read",
    )
