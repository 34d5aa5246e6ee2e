"""``condense inspect``, ``condense export`` and ``condense report``."""

import argparse
from typing import Any

import yaml

from condense_core.artefact import CondensedDataset
from condense_core.artefact.export import export
from condense_core.cli.files import write_json
from condense_core.errors import ArtefactError
from condense_core.report.page import write_report


def inspect(arguments: argparse.Namespace) -> None:
    """``condense inspect``."""
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
    config = condensed.metadata.get("config")
    if arguments.config:
        if not isinstance(config, dict):
            raise ArtefactError(
                f"{arguments.artefact} holds no configuration: leave out --config"
            )
        print(yaml.safe_dump(config, sort_keys=False), end="")
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
        "config": "print it with --config" if config else "none",
        "data": _in_a_line(condensed.metadata.get("data")),
        "versions": _in_a_line(condensed.metadata.get("versions")),
        "digest": condensed.digest,
    }
    for key, value in lines.items():
        print(f"{key:<16} {value}")


def _in_a_line(values: Any) -> str:
    """A mapping as short text, for people."""
    if not isinstance(values, dict):
        return "unknown"
    shown = {name: v for name, v in values.items() if name != "fingerprint"}
    return ", ".join(f"{name} {_short(value)}" for name, value in shown.items())


def _short(value: Any) -> str:
    """A value as text; numbers of every class by their range."""
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return f"{min(value)} to {max(value)}" if value else "none"
    return f"{value!s:.70}"


def export_images(arguments: argparse.Namespace) -> None:
    """``condense export``."""
    condensed = CondensedDataset.load(arguments.artefact)
    print(export(condensed, format=arguments.format, out=arguments.out))


def report(arguments: argparse.Namespace) -> None:
    """``condense report``."""
    print(write_report(arguments.run_dir))
