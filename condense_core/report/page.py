"""The report of a finished run: one self-contained HTML page, and a table of numbers.

The page needs no network, no script and no plotting library; every text that comes from
a file (class names above all) is escaped. Shapes: N real images, M synthetic images,
D features.
"""

import json
import string
from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense_core.errors import RunError
from condense_core.report import sections
from condense_core.report.charts import thin
from condense_core.report.sections import Condensed, Json
from condense_core.report.tiles import write_samples_png
from condense_core.runlog import atomic_write_text

__all__ = ["results_table", "write_features", "write_report", "write_samples_png"]

_FEATURES_KEPT = 2000


def write_report(
    run_dir: Path | str, *, load: Callable[[Path], Condensed] | None = None
) -> Path:
    """Write ``report.html`` of a finished run.

    Args:
        run_dir: Folder with ``config.yaml``, ``report.json``, ``condensed.safetensors``
            and, for the curves and the feature plot, ``metrics.jsonl`` and
            ``features.json``.
        load: Reads the artefact; `CondensedDataset.load` unless given.

    Returns:
        Path of the page.

    Raises:
        RunError: If it is no folder of a finished run, or a file in it is unreadable
            or cannot be written.
        ArtefactError: If the artefact is not valid.
    """
    run_dir = Path(run_dir)
    report = _read_json(run_dir / "report.json")
    config = _read_text(run_dir / "config.yaml")
    artefact = run_dir / "condensed.safetensors"
    if not artefact.is_file():
        raise _incomplete(artefact)
    if load is None:
        from condense_core.artefact import CondensedDataset

        load = CondensedDataset.load
    condensed = load(artefact)

    body = [
        sections.images(condensed),
        sections.results(report),
        sections.storage(condensed),
        sections.curves(_read_metrics(run_dir / "metrics.jsonl")),
    ]
    if (run_dir / "features.json").is_file():
        features = _read_json(run_dir / "features.json")
        body.append(sections.features(features, condensed.classes))
    body.append(sections.provenance(report, condensed.metadata, config))

    template = resources.files(__package__).joinpath("template.html")
    page = string.Template(template.read_text(encoding="utf-8")).substitute(
        title=escape(sections.title(report, condensed)),
        summary=escape(sections.summary(report, condensed)),
        body="\n".join(filter(None, body)),
    )
    path = run_dir / "report.html"
    atomic_write_text(path, page)
    return path


def results_table(report: Json) -> str:
    """The numbers as aligned plain text: the condensed set, then every baseline.

    Args:
        report: Content of a ``report.json``.

    Returns:
        Lines without a final newline.

    Example:
        >>> entry = {"accuracy_mean": 91.24, "accuracy_std": 0.5, "repeats": 5}
        >>> print(results_table(entry | {"images": 100, "bytes": 64000}))
        set        accuracy %    repeats  images   bytes
        condensed  91.24 ± 0.50        5     100  64,000
    """
    rows = [["set", "accuracy %", "repeats", "images", "bytes"]]
    for name, entry in sections.entries(report):
        rows.append([name, *sections.cells(entry)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
        cells += [c.rjust(w) for c, w in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_features(
    run_dir: Path,
    *,
    real_ND: Tensor,
    real_labels_N: Tensor,
    synthetic_MD: Tensor,
    synthetic_labels_M: Tensor,
) -> None:
    """Project features to two dimensions and write ``features.json`` for the report.

    The axes are the first two principal components of the real features alone:
    synthetic images that lie elsewhere cannot turn the axes towards themselves.

    Args:
        run_dir: Folder of the run.
        real_ND: Features of real images, (N, D) with D at least 2.
        real_labels_N: Their classes, (N,).
        synthetic_MD: Features of the synthetic images, (M, D), of the same network.
        synthetic_labels_M: Their classes, (M,).

    Raises:
        RunError: If the disk is full or the file cannot be written.
    """
    real_ND, synthetic_MD = real_ND.detach().cpu(), synthetic_MD.detach().cpu()
    centre_D = real_ND.double().mean(0)
    centred_ND = real_ND.double() - centre_D
    # An eigendecomposition, for torch.pca_lowrank draws from the global generator.
    variances_D, axes_DD = torch.linalg.eigh(centred_ND.T @ centred_ND)
    axes_D2 = axes_DD[:, -2:].flip(1)
    # The sign of an eigenvector is arbitrary: fix it, so that runs can be compared.
    axes_D2 = axes_D2 * axes_D2.gather(0, axes_D2.abs().argmax(0, keepdim=True)).sign()
    explained = variances_D[-2:].flip(0) / variances_D.sum().clamp_min(1e-30)

    def triples(features: Tensor, labels: Tensor) -> list[list[float]]:
        plane = ((features.double() - centre_D) @ axes_D2).tolist()
        points = [
            [float(f"{x:.5g}"), float(f"{y:.5g}"), label]
            for (x, y), label in zip(plane, labels.tolist(), strict=True)
        ]
        return list(thin(points, _FEATURES_KEPT))

    features = {
        "real": triples(real_ND, real_labels_N),
        "synthetic": triples(synthetic_MD, synthetic_labels_M),
        "explained": [round(share, 4) for share in explained.tolist()],
    }
    atomic_write_text(run_dir / "features.json", json.dumps(features))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _incomplete(path) from error
    except NotADirectoryError as error:
        raise RunError(
            f"{path.parent} is a file: give the folder of a finished run"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read {path} ({error}): run it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise RunError(f"{path} is not valid JSON ({error}): run it again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} does not hold a JSON object: run it again")
    return content


def _read_metrics(path: Path) -> list[Json]:
    """The lines of a metrics file but the torn ones; none if there is no file."""
    if not path.is_file():
        return []
    lines: list[Json] = []
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _incomplete(path: Path) -> RunError:
    run, artefact = path.parent, path.with_name("condensed.safetensors")
    unfinished = (run / "checkpoint").exists() or not artefact.is_file()
    if path.name == "report.json" and not unfinished:
        return RunError(
            f"{run} has no {path.name}: condense() in Python writes none; judge "
            f"{artefact} with condense evaluate, or use condense run for a report"
        )
    return RunError(
        f"{path.parent} has no {path.name}: "
        "give the folder of a finished run, or run the same command again to finish it"
    )
