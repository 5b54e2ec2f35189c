"""A small chart as inline SVG. Pure; a mail client that shows none loses nothing: a table says the same beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_ROW, _LABEL, _WIDTH, _VALUE = 22, 190, 300, 90
_GOOD, _BAD, _MARK = "#2f855a", "#c53030", "#4a5568"


_HEIGHT = 90


def line(label: str, points: Sequence[tuple[float, float]], low: str, high: str) -> str:
    """Draw values over time, from zero up; ``low`` and ``high`` are what the first and the last value are called.

    Empty with less than two points.
    """
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    top = max(value for _, value in points) or 1.0
    places = " ".join(
        f"{_WIDTH * (at - first) / ((last - first) or 1.0):.1f},{_HEIGHT * (1 - value / top) + 4:.1f}"
        for at, value in points
    )
    width, height = _LABEL + _WIDTH + _VALUE, _HEIGHT + 8
    head = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
    end = _HEIGHT * (1 - points[-1][1] / top) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {head}><title>{escape(label)}</title>'
        f'<text x="0" y="15">{escape(label)}</text><text x="0" y="32" fill="{_MARK}">{escape(low)}</text>'
        f'<g transform="translate({_LABEL} 0)"><line x1="0" x2="{_WIDTH}" y1="{_HEIGHT + 4}" y2="{_HEIGHT + 4}"'
        f' stroke="{_MARK}"/><polyline points="{places}" fill="none" stroke="{_GOOD}" stroke-width="2"/>'
        f'<text x="{_WIDTH + 6}" y="{max(end, 12):.1f}">{escape(high)}</text></g></svg>'
    )


@dataclass(frozen=True)
class Bar:
    """One measured time in seconds, what was predicted for it, and whether it is good."""

    label: str
    seconds: float
    predicted: float
    good: bool


def bars(rows: Sequence[Bar]) -> str:
    """Draw a bar a row, as long as its time; a tick marks the prediction. Empty without rows."""
    if not rows:
        return ""
    longest = max((max(row.seconds, row.predicted) for row in rows), default=0.0) or 1.0
    width, height = _LABEL + _WIDTH + _VALUE, _ROW * len(rows)
    head = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {head}><title>measured; tick: predicted</title>']
    for number, row in enumerate(rows):
        top = number * _ROW
        long, mark = (_LABEL + _WIDTH * max(value, 0.0) / longest for value in (row.seconds, row.predicted))
        parts.append(
            f'<text x="0" y="{top + 15}">{escape(row.label)}</text>'
            f'<rect x="{_LABEL}" y="{top + 4}" width="{long - _LABEL:.1f}" height="{_ROW - 8}"'
            f' fill="{_GOOD if row.good else _BAD}"/>'
            f'<line x1="{mark:.1f}" x2="{mark:.1f}" y1="{top + 1}" y2="{top + _ROW - 1}" stroke="{_MARK}"'
            ' stroke-width="2"/>'
            f'<text x="{long + 6:.1f}" y="{top + 15}">{row.seconds:.1f} s</text>'
        )
    return "".join((*parts, "</svg>"))
