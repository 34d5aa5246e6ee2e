"""Line charts and scatter plots as inline SVG: a report needs no plotting library.

Colours and fonts are classes of the page's style sheet; a chart follows its light and
dark schemes. Every text is escaped.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import TypeVar

T = TypeVar("T")
Point = tuple[float, float]

_WIDTH, _HEIGHT = 300, 176
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 8, 34
_SPAN_FOR_LOG = 30.0
_SCATTER = 440
HUES = 10
"""Number of colours the style sheet has for classes (``.c0`` to ``.c9``)."""


class Scale:
    """A range of values mapped onto a range of pixels.

    Args:
        values: The values to cover; at least one.
        pixels: Where the lowest and the highest value go.
        log: Whether the scale is logarithmic; None decides: positive values over more
            than a factor of thirty are.
        tight: Whether the range ends at the values and not at the ticks around them.
    """

    def __init__(
        self,
        values: Sequence[float],
        pixels: tuple[float, float],
        *,
        log: bool | None = None,
        tight: bool = False,
    ) -> None:
        low, high = min(values), max(values)
        if log is None:
            log = low > 0 and high / low > _SPAN_FOR_LOG
        self.log = log
        if low == high:
            pad = abs(low) / 2 or 0.5
            low, high = low - pad, high + pad
        ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
        if not tight:
            low, high = min(low, ticks[0]), max(high, ticks[-1])
        self.ticks = [tick for tick in ticks if low <= tick <= high]
        self._low, self._high, self._pixels = low, high, pixels

    def __call__(self, value: float) -> float:
        """The pixel of ``value``."""
        low, high = self._low, self._high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        start, end = self._pixels
        return start + (value - low) / (high - low) * (end - start)


def line_chart(
    points: Sequence[Point], *, label: str, shared: Sequence[float] | None = None
) -> str:
    """One curve over the steps of a run.

    Args:
        points: (step, value) pairs in order, all finite; at least one.
        label: What the curve is, read out by a screen reader.
        shared: Values of all the charts that share the vertical scale.

    Returns:
        An ``<svg>`` element.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    scale_x = Scale(xs, (_LEFT, _WIDTH - _RIGHT), log=False, tight=True)
    scale_y = Scale(shared or ys, (_HEIGHT - _BOTTOM, _TOP))
    shown = thin(points)
    path = " ".join(f"{scale_x(x):.1f},{scale_y(y):.1f}" for x, y in shown)
    marks = shown if len(shown) <= 24 else shown[-1:]
    dots = "".join(
        f'<circle class="dot" cx="{scale_x(x):.1f}" cy="{scale_y(y):.1f}" r="2.2"/>'
        for x, y in marks
    )
    description = f"{label} over {len(points)} points, last {number(ys[-1])}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(description)}">'
        + _axes(scale_x, scale_y, width=_WIDTH, height=_HEIGHT)
        + f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 3}" '
        'class="label" text-anchor="middle">step</text>'
        f'<polyline class="line" points="{path}"/>{dots}</svg>'
    )


def scatter(
    real: Sequence[tuple[float, float, int]],
    synthetic: Sequence[tuple[float, float, int]],
    *,
    labels: tuple[str, str],
    coloured: bool,
) -> str:
    """Real points as small dots, synthetic ones as larger diamonds on top.

    Args:
        real: (x, y, class) triples.
        synthetic: (x, y, class) triples; not empty together with ``real``.
        labels: What the two axes are.
        coloured: Whether a point takes the colour of its class.

    Returns:
        An ``<svg>`` element; both axes have the same unit.
    """
    both = [*real, *synthetic]
    xs, ys = [p[0] for p in both], [p[1] for p in both]
    span = max(max(xs) - min(xs), 1e-9)
    ratio = min(max((max(ys) - min(ys)) / span, 0.4), 1.0)
    # Equal units on both axes, or distances between clusters would mean nothing.
    unit = max(span, (max(ys) - min(ys)) / ratio) * 1.04
    width, height = _SCATTER, round((_SCATTER - _LEFT - _RIGHT) * ratio) + _TOP + 40
    bottom = height - 40
    scale_x = Scale(_around(xs, unit), (_LEFT, width - _RIGHT), log=False, tight=True)
    scale_y = Scale(_around(ys, unit * ratio), (bottom, _TOP), log=False, tight=True)
    dots = "".join(
        f'<circle class="real {_hue(c, coloured)}" '
        f'cx="{scale_x(x):.1f}" cy="{scale_y(y):.1f}" r="1.7"/>'
        for x, y, c in thin(real, 3000)
    )
    diamonds = "".join(
        f'<path class="synthetic {_hue(c, coloured)}" '
        f'd="M{scale_x(x):.1f} {scale_y(y) - 5:.1f}l5 5l-5 5l-5 -5z"/>'
        for x, y, c in thin(synthetic, 1000)
    )
    middle = (_TOP + bottom) / 2
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="'
        f'{len(real)} real and {len(synthetic)} synthetic images as points">'
        + _axes(scale_x, scale_y, width=width, height=bottom + _BOTTOM)
        + f'<text x="{(_LEFT + width - _RIGHT) / 2}" y="{height - 6}" '
        f'class="label" text-anchor="middle">{escape(labels[0])}</text>'
        f'<text transform="translate(10 {middle}) rotate(-90)" '
        f'class="label" text-anchor="middle">{escape(labels[1])}</text>'
        f"{dots}{diamonds}</svg>"
    )


def thin(points: Sequence[T], limit: int = 400) -> Sequence[T]:
    """At most about ``limit`` evenly spaced items of ``points``, the last one always.

    Example:
        >>> thin(list(range(10)), 4)
        [0, 3, 6, 9]
    """
    stride = math.ceil(len(points) / limit)
    return [p for i, p in enumerate(reversed(points)) if i % stride == 0][::-1]


def number(value: float) -> str:
    """A number as short as it can be said: four digits, thousands separated.

    Example:
        >>> number(12000), number(0.12345), number(3e-7), number(-2)
        ('12,000', '0.1235', '3e−7', '−2')
    """
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}".replace("-", "−")
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    text = f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return text.replace("-", "−")


def _axes(scale_x: Scale, scale_y: Scale, *, width: int, height: int) -> str:
    bottom = height - _BOTTOM
    parts = [
        f'<path class="axis" fill="none" '
        f'd="M{_LEFT} {_TOP}V{bottom}H{width - _RIGHT}"/>'
    ]
    for tick in scale_y.ticks:
        y = scale_y(tick)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{width - _RIGHT}"/>'
            f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{number(tick)}</text>"
        )
    for tick in scale_x.ticks:
        x = scale_x(tick)
        parts.append(
            f'<path class="axis" d="M{x:.1f} {bottom}v4"/>'
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">'
            f"{number(tick)}</text>"
        )
    return "".join(parts)


def _linear_ticks(low: float, high: float) -> list[float]:
    """Three to seven round values, the first at or below ``low``, the last above."""
    raw = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = magnitude * next(m for m in (1, 2, 5, 10) if m * magnitude >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten around the range, every second or third where they are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = math.ceil((last - first) / 5)
    return [10.0**power for power in range(first, last + stride, stride)]


def _around(values: Sequence[float], span: float) -> tuple[float, float]:
    middle = (min(values) + max(values)) / 2
    return middle - span / 2, middle + span / 2


def _hue(label: int, coloured: bool) -> str:
    return f"c{label % HUES}" if coloured else ""
