"""Charts as inline SVG, with colours and fonts from the style sheet's classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from .markup import escape
from .tally import Tally

WIDTH, HEIGHT = 480, 220  # size of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 38
_BARS = 60
_INTERVALS = 80

Points = Sequence[tuple[float, int]]


def histogram(tally: Tally) -> str:
    """Draw a histogram of the scores, with the median."""
    bars = list(tally.scores.merged(min(_BARS, max(24, 2 * math.isqrt(tally.scored)))))
    median = tally.scores.quantile(0.5)
    if not bars or median is None:
        return '<p class="empty">No row has a score.</p>'
    low, high = bars[0][0], bars[-1][1]
    most = max(count for *_, count in bars)
    x, y = _scale(low, high, _LEFT, WIDTH - _RIGHT), _scale(0, _ceiling(most), HEIGHT - _BOTTOM, _TOP)
    drawn = [
        f'<rect class="bar" x="{x(left) + 0.5:.1f}" y="{y(count):.1f}" width="{max(0.5, x(right) - x(left) - 1):.1f}" '
        f'height="{y(0) - y(count):.1f}"><title>{left:g} to {right:g}: {count:,}</title></rect>'
        for left, right, count in bars
        if count
    ]
    middle = x(median)
    anchor = "end" if middle > WIDTH * 0.7 else "start"
    drawn.append(
        f'<line class="mark" x1="{middle:.1f}" x2="{middle:.1f}" y1="{_TOP - 8}" y2="{y(0):.1f}"/>'
        f'<text class="mark" x="{middle + (-5 if anchor == "end" else 5):.1f}" y="{_TOP + 2}" '
        f'text-anchor="{anchor}">median {median:.4g}</text>'
    )
    said = f"Histogram of {tally.scored:,} scores from {tally.scores.smallest:.4g} to {tally.scores.largest:.4g}, median {median:.4g}"
    axes = _axis_y(_ticks(0, _ceiling(most), 4), y) + _axis_x([(v, f"{v:g}") for v in _ticks(low, high, 7)], x)
    return _svg(said, axes + "".join(drawn), f"{tally.kind} score", "rows")


def throughput(points: Points) -> str:
    """Draw rows per second over time, from points [seconds since the start, rows done]."""
    rates = _rates(points)
    if len(rates) < 2:
        return '<p class="empty">The progress of the run over time was not recorded.</p>'
    began, ended = rates[0][0], rates[-1][1]
    top = _ceiling(max(rate for *_, rate in rates))
    x, y = _scale(began, ended, _LEFT, WIDTH - _RIGHT), _scale(0, top, HEIGHT - _BOTTOM, _TOP)
    steps = " ".join(f"L{x(left):.1f} {y(rate):.1f}L{x(right):.1f} {y(rate):.1f}" for left, right, rate in rates)
    line = f"M{x(began):.1f} {y(rates[0][2]):.1f} {steps}"
    area = f"M{x(began):.1f} {y(0):.1f} {steps} L{x(ended):.1f} {y(0):.1f}Z"
    unit, name = next(((s, n) for s, n in ((3600, "hours"), (60, "minutes")) if ended - began >= 3 * s), (1, "seconds"))
    marks = [(value * unit, f"{value:g}") for value in _ticks(began / unit, ended / unit, 7)]
    slowest, fastest = (pick(rate for *_, rate in rates) for pick in (min, max))
    said = f"Throughput over {duration(ended - began)}: between {slowest:,.1f} and {fastest:,.1f} rows per second"
    drawn = f'<path class="area" d="{area}"/><path class="line" d="{line}"/>'
    return _svg(said, _axis_y(_ticks(0, top, 4), y) + _axis_x(marks, x) + drawn, f"{name} since the start", "rows/s")


def share_bar(share: float) -> str:
    """Draw a share, 0 to 1, as a bar that fills its cell."""
    width = max(0.5, 100 * min(1.0, max(0.0, share)))
    return (
        '<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="10"/><rect class="bar" width="{width:.1f}" height="10"/></svg>'
    )


def duration(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> duration(3.21), duration(75), duration(7300)
        ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def _rates(points: Points) -> list[tuple[float, float, float]]:
    """Return (from, to, rows per second) for at most about `_INTERVALS` intervals; points back in time are skipped."""
    onward: list[tuple[float, int]] = []
    for seconds, rows in points:
        if math.isfinite(seconds) and (not onward or (seconds > onward[-1][0] and rows >= onward[-1][1])):
            onward.append((seconds, rows))
    gap = (onward[-1][0] - onward[0][0]) / _INTERVALS if onward else 0.0
    thinned = onward[:1]
    for point in onward[1:]:
        if point[0] - thinned[-1][0] >= gap:
            thinned.append(point)
    if len(thinned) > 2 and onward[-1][0] - thinned[-2][0] < 1.6 * (thinned[-2][0] - thinned[-3][0]):
        thinned.pop()  # a short last interval has an unreliable rate, which may dwarf the others
    if thinned[-1:] != onward[-1:]:
        thinned.append(onward[-1])
    return [(start, end, (now - before) / (end - start)) for (start, before), (end, now) in pairwise(thinned)]


class _scale:  # noqa: N801 - a function with two bounds
    """Map a range of values to a range of the drawing."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self._low, self._first, self._factor = low, first, (last - first) / ((high - low) or 1)

    def __call__(self, value: float) -> float:
        return self._first + (value - self._low) * self._factor


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most about `most` round numbers within a range."""
    step = _round_up((high - low) / most) if high > low else 1.0
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= value * (1 - 1e-9))


def _ceiling(value: float) -> float:
    """Return the end of an axis that must include a value."""
    step = _round_up(value / 4) if value > 0 else 0.25
    return step * math.ceil(value / step - 1e-9) if value > 0 else 1.0


def _axis_x(marks: Sequence[tuple[float, str]], x: _scale) -> str:
    base = HEIGHT - _BOTTOM
    return f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>' + "".join(
        f'<text class="tick" x="{x(place):.1f}" y="{base + 16}" text-anchor="middle">{label}</text>'
        for place, label in marks
    )


def _axis_y(values: Sequence[float], y: _scale) -> str:
    return "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 7}" y="{y(value) + 4:.1f}" text-anchor="end">{_compact(value)}</text>'
        for value in values
    )


def _compact(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:g}"


def _svg(said: str, drawn: str, below: str, beside: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">{drawn}'
        f'<text class="unit" x="{WIDTH - _RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{escape(below)}</text>'
        f'<text class="unit" x="4" y="{HEIGHT - 5}">{escape(beside)}</text></svg>'
    )
