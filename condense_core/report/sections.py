"""The sections of a report page, each a function from the numbers to HTML.

Every text that comes from a file is escaped here; `title` and `summary` return plain
text for the caller to escape.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

from torch import Tensor

from condense_core.data.png import to_png
from condense_core.report import charts
from condense_core.report.charts import number
from condense_core.report.tiles import PER_CLASS, first_of_each_class

_CLASSES_SHOWN = 20
_LARGEST_TILE = 128
_BASELINES = {"random": "random real images", "full": "all real images"}
_GROUPS = {
    "": "Progress",
    "loss": "Loss terms",
    "grad_norm": "Gradient norm of each term, all on one scale",
}
_ONE_SCALE = {"grad_norm"}

Json = Mapping[str, Any]


class Condensed(Protocol):
    """What a page needs of a `CondensedDataset`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def images_per_class(self) -> int:
        """Images per class."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Facts about how it was made."""

    def images(self) -> tuple[Tensor, Tensor]:
        """The fixed set, (B, C, H, W) in [0, 1], and its labels (B,)."""

    def bytes_by_part(self) -> Mapping[str, int]:
        """Bytes on disk of each part."""


def title(report: Json, condensed: Condensed) -> str:
    """What the page is about, as plain text."""
    per_class = condensed.images_per_class
    name = report.get("dataset", "data set")
    return f"{name} in {per_class} {_plural(per_class)} per class"


def summary(report: Json, condensed: Condensed) -> str:
    """What was condensed and how good the result is, as plain text."""
    baselines = report.get("baselines") or {}
    classes, per_class = len(condensed.classes), condensed.images_per_class
    total = classes * per_class
    real = (baselines.get("full") or {}).get("images")
    text = (
        f"{f'{real:,} real images' if real else 'The real images'} in {classes} "
        f"classes were condensed to {per_class} synthetic {_plural(per_class)} "
        f"per class, {total:,} in all."
    )
    if "accuracy_mean" not in report:
        return text
    text += (
        f" The network {report.get('network', 'of this run')}, trained on those alone "
        f"with the recipe {report.get('recipe', 'of this run')}, classifies "
        f"{_accuracy(report)} % of the test images correctly"
    )
    named = {"random": "as many random real images", "full": "all real images"}
    others = [
        f"trained on {words}, {_accuracy(baselines[name])} %"
        for name, words in named.items()
        if "accuracy_mean" in (baselines.get(name) or {})
    ]
    text += f"; {'; '.join(others)}." if others else "."
    random = (baselines.get("random") or {}).get("accuracy_mean", -math.inf)
    if random >= report["accuracy_mean"]:
        text += " In this run the condensed images do not beat random real ones."
    # A line must not break between a number and its sign.
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}").replace(
        " %", "\N{NO-BREAK SPACE}%"
    )


def images(condensed: Condensed) -> str:
    """The grid of synthetic images, one named row a class."""
    images, labels = condensed.images()
    names = condensed.classes
    places = first_of_each_class(labels, len(names))[:_CLASSES_SHOWN]
    height, width = images.shape[-2:]
    rows = []
    for name, row in zip(names, places, strict=False):
        tiles = "".join(
            f'<img alt="" width="{width}" height="{height}" src="data:image/png;base64,'
            f'{base64.b64encode(to_png(images[i], largest=_LARGEST_TILE)).decode()}">'
            for i in row
        )
        rows.append(
            f'<div class="class"><div class="name">{escape(name)}</div>'
            f'<div class="tiles" role="img" aria-label="{len(row)} synthetic '
            f'{_plural(len(row))} of class {escape(name)}">{tiles}</div></div>'
        )
    shown = min(condensed.images_per_class, PER_CLASS)
    notes = [f"One row a class; each image is {height} × {width} pixels."]
    if condensed.images_per_class > shown:
        notes.append(
            f"The first {shown} of {condensed.images_per_class} images of each class."
        )
    if len(names) > len(places):
        notes.append(f"The first {len(places)} of {len(names)} classes.")
    if max(height, width) > _LARGEST_TILE:
        notes.append(f"Shrunk here to {_LARGEST_TILE} pixels.")
    tile = 3.6 if shown > 4 else 4.5
    longest = max(map(len, names))
    label = min(0.6 * longest + 0.2, 6.2)
    # Where rows are narrower than the page, several classes share a line of the grid.
    style = (
        f"--shown:{shown};--tile:{tile}rem;--label:{label:.1f}rem;"
        f"--row:{label + 1 + shown * (tile + 0.2):.1f}rem"
    )
    return (
        "<section>\n<h2>The synthetic images</h2>\n<figure>\n"
        f'<div class="classes{" long" if longest > 4 else ""}" style="{style}">\n'
        + "\n".join(rows)
        + "\n</div>\n"
        f'<figcaption class="note">{" ".join(notes)}</figcaption>\n'
        "</figure>\n</section>"
    )


def results(report: Json) -> str:
    """The table of accuracies; empty without one."""
    evaluated = entries(report)
    if not evaluated:
        return ""
    rows = [
        [escape(_BASELINES.get(name, name)), *cells(entry)] for name, entry in evaluated
    ]
    facts = [
        f"recipe {report['recipe']}" if "recipe" in report else "",
        f"network {report['network']}" if "network" in report else "",
    ]
    note = (
        "Test accuracy, mean ± standard deviation over the repeats, each a network "
        f"trained from scratch ({', '.join(filter(None, facts)) or 'same recipe'}). "
        "The condensed set is the fixed one shown above; no checkpoint is picked on "
        "test data."
    )
    head = ["trained on", "accuracy, %", "repeats", "images", "bytes"]
    return (
        "<section>\n<h2>Accuracy</h2>\n"
        + _table(head, rows, classes=["own"])
        + f'\n<p class="note">{escape(note)}</p>\n</section>'
    )


def storage(condensed: Condensed) -> str:
    """Bytes by part, beside those of the pixels that the artefact stands for."""
    parts = condensed.bytes_by_part()
    total = sum(parts.values())
    images, _ = condensed.images()
    pixels = images.numel()
    rows = [
        [escape(name.replace("_", " ")), f"{size:,}", f"{100 * size / total:.1f} %"]
        for name, size in parts.items()
    ]
    rows.append(["the artefact", f"{total:,}", ""])
    rows.append([f"{len(images):,} images as uint8 pixels", f"{pixels:,}", ""])
    if total > pixels:
        verdict = (
            f"The artefact is {_times(total / pixels)} as large as the uint8 pixels of "
            f"the {len(images):,} images it generates: to store just these images, "
            "the exported pixels take less room."
        )
    else:
        verdict = (
            f"The uint8 pixels of the {len(images):,} images it generates would take "
            f"{_times(pixels / total)} the room of the artefact."
        )
    classes = [""] * len(parts) + ["own sum", ""]
    return (
        "<section>\n<h2>Storage</h2>\n"
        f"<p>{escape(verdict)}</p>\n"
        + _table(["part", "bytes", "share"], rows, classes=classes)
        + "\n</section>"
    )


def curves(lines: Sequence[Json]) -> str:
    """One small chart a metric, grouped by what precedes the slash in its name."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    lost: dict[str, int] = {}
    for line in lines:
        for key, value in line.items():
            group, _, name = key.rpartition("/")
            if key == "step" or isinstance(value, bool | str):
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                lost[key] = lost.get(key, 0) + 1
                continue
            curve = curves.setdefault(group, {}).setdefault(name, [])
            curve.append((float(line["step"]), float(value)))
    if not curves:
        return ""
    known = list(_GROUPS)
    order = sorted(curves, key=lambda g: known.index(g) if g in known else len(known))
    html = ["<section>\n<h2>Training</h2>"]
    for group in order:
        terms = curves[group]
        shared = None
        if group in _ONE_SCALE:
            shared = [y for points in terms.values() for _, y in points]
        title = _GROUPS.get(group, group.replace("_", " "))
        html.append(f'<h3>{escape(title)}</h3>\n<div class="charts">')
        for name, points in terms.items():
            key = f"{group}/{name}" if group else name
            html.append(_curve(name, points, shared, lost.get(key, 0)))
        html.append("</div>")
    return "\n".join([*html, "</section>"])


def _curve(
    name: str,
    points: list[tuple[float, float]],
    shared: Sequence[float] | None,
    lost: int,
) -> str:
    label = name.replace("_", " ") + (", %" if name.endswith("accuracy") else "")
    last = f"last {number(points[-1][1])}" + (f", {lost} not finite" if lost else "")
    svg = charts.line_chart(points, label=label, shared=shared)
    return (
        f"<figure><figcaption><span>{escape(label)}</span><span>{last}</span>"
        f"</figcaption>{svg}</figure>"
    )


def features(features: Json, classes: Sequence[str]) -> str:
    """The feature plot of `write_features`."""
    real = [(float(x), float(y), int(c)) for x, y, c in features.get("real", ())]
    synthetic = [(float(x), float(y), int(c)) for x, y, c in features["synthetic"]]
    coloured = len(classes) <= charts.HUES
    explained = features.get("explained", ())
    shares = [f" ({100 * share:.0f} % of variance)" for share in explained]
    shares += [""] * (2 - len(shares))
    labels = (
        f"first principal component{shares[0]}",
        f"second principal component{shares[1]}",
    )
    plot = charts.scatter(real, synthetic, labels=labels, coloured=coloured)
    names = "".join(
        f'<li class="c{i}">{escape(name)}</li>' for i, name in enumerate(classes)
    )
    legend = f'<ul class="names">{names}</ul>' if coloured else ""
    return (
        "<section>\n<h2>Features in two dimensions</h2>\n"
        f'<figure><div class="plane">{plot}</div>{legend}'
        f'<figcaption class="note">Dots are real images, outlined diamonds synthetic '
        "ones, both as features of one network; the axes are the principal components "
        "of the real features.</figcaption></figure>\n</section>"
    )


def provenance(report: Json, metadata: Json, config: str) -> str:
    """Everything needed to make the same run again."""
    facts: dict[str, Any] = {
        name: report[name]
        for name in ("dataset", "recipe", "network", "seed", "device", "machine")
        if name in report
    }
    if "seconds" in report:
        facts["duration"] = _duration(float(report["seconds"]))
    versions = report.get("versions") or metadata.get("versions") or {}
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    for name, value in metadata.items():
        if isinstance(value, str | int | float) and len(str(value)) <= 200:
            facts.setdefault(name.replace("_", " "), value)
    items = "".join(
        f"<dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd>"
        for k, v in facts.items()
        if str(v)
    )
    command = report.get("command")
    if command:
        items += f"<dt>command</dt><dd><code>{escape(str(command))}</code></dd>"
    return (
        f"<section>\n<h2>How it was made</h2>\n<dl>{items}</dl>\n"
        "<details><summary>The resolved configuration</summary>"
        f"<pre>{escape(config.strip())}</pre></details>\n</section>"
    )


def entries(report: Json) -> list[tuple[str, Json]]:
    """The condensed set and every baseline, those without an accuracy left out."""
    named = [("condensed", report), *(report.get("baselines") or {}).items()]
    return [(name, entry) for name, entry in named if "accuracy_mean" in (entry or {})]


def cells(entry: Json) -> list[str]:
    """Accuracy, repeats, images and bytes of one evaluation as text."""
    counts = [entry.get(key) for key in ("repeats", "images", "bytes")]
    return [_accuracy(entry, 2)] + [f"{n:,}" if n is not None else "–" for n in counts]


def _accuracy(entry: Json, digits: int = 1) -> str:
    """Mean ± standard deviation; the mean alone where one repeat has no deviation."""
    mean, deviation = entry["accuracy_mean"], entry.get("accuracy_std")
    if entry.get("repeats") == 1 or deviation is None or not math.isfinite(deviation):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, classes: Sequence[str]
) -> str:
    """A table of cells that are HTML already; ``classes`` style the first rows."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = []
    for index, (first, *rest) in enumerate(rows):
        style = classes[index] if index < len(classes) else ""
        row = f'<th scope="row">{first}</th>' + "".join(f"<td>{c}</td>" for c in rest)
        body.append(f'<tr class="{style}">{row}</tr>' if style else f"<tr>{row}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 100 else f"{ratio:,.0f} times"


def _plural(count: int) -> str:
    return "image" if count == 1 else "images"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "less than a second"
