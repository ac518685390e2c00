"""Plots as inline SVG in the page's own colours: accuracy over k, and strips of shares.

Written by hand rather than by a plotting library, so that a page needs none, follows the reader's light or dark
scheme, and can show or hide a series.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from leaderboards.markup import text

__all__ = ["COLOURS", "Point", "Series", "accuracy_figure", "strip"]

COLOURS = 8
"""Colours of the style sheet, ``c0`` to ``c7``; further series reuse them with other dashes and hollow marks."""

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 12, 48
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
_SIZE = 4.6


class Point(NamedTuple):
    """Accuracy at one k.

    Attributes:
        k: hops in the chain.
        accuracy: 0 to 1.
        low: lower end of its 95 % interval; None where n is not known.
        high: upper end.
        n: stories; None where nobody says.
    """

    k: int
    accuracy: float
    low: float | None
    high: float | None
    n: int | None


class Series(NamedTuple):
    """A line of a plot.

    Attributes:
        label: its name in the legend; escaped here.
        points: its points, k ascending.
        sure: false for figures that are shown only on request.
        drawn: whether it is drawn before its name in the legend is pressed.
    """

    label: str
    points: Sequence[Point]
    sure: bool = True
    drawn: bool = True


def _mark(shape: int, x: float, y: float) -> str:
    """Draw one of five marks, so that series are told apart without colour."""
    s = _SIZE
    if shape == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{s - 0.6:.1f}"/>'
    corners = (
        ((-s, -s), (s, -s), (s, s), (-s, s)),
        ((0, -s - 1), (s + 1, s), (-s - 1, s)),
        ((0, -s - 1.2), (s + 1.2, 0), (0, s + 1.2), (-s - 1.2, 0)),
        ((-s - 1, -s), (s + 1, -s), (0, s + 1)),
    )[shape - 1]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" points="{points}"/>'


def _style(place: int) -> tuple[str, str]:
    """Return the class and the dash attribute of a series by its place."""
    dash = _DASHES[place // COLOURS % len(_DASHES)]
    hollow = " hollow" if place // COLOURS % 2 else ""
    return f"series c{place % COLOURS}{hollow}", f' stroke-dasharray="{dash}"' if dash else ""


class _Axes:
    """Where a k and an accuracy lie on the drawing."""

    def __init__(self, hops: Sequence[int]) -> None:
        self.hops = hops
        self.step = (_WIDTH - _LEFT - _RIGHT) / (hops[-1] - hops[0] + 1)

    def x(self, k: float) -> float:
        return _LEFT + (k - self.hops[0] + 0.5) * self.step

    def y(self, accuracy: float) -> float:
        return _TOP + (1 - accuracy) * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, chance: float | None) -> str:
        parts = []
        for percent in (0, 25, 50, 75, 100):
            y = self.y(percent / 100)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
        every = math.ceil(len(self.hops) / 12)
        for k in self.hops[::every]:
            parts.append(f'<text x="{self.x(k):.1f}" y="{_HEIGHT - 26}" text-anchor="middle">{k}</text>')
        middle = (_TOP + _HEIGHT - _BOTTOM) / 2
        parts.append(
            f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">k, hops in the chain</text>'
        )
        parts.append(
            f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
            "accuracy, %</text>"
        )
        if chance is not None:
            y = self.y(chance)
            parts.append(f'<line class="chance" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text x="{_WIDTH - _RIGHT}" y="{y + 16:.1f}" text-anchor="end">chance {100 * chance:.1f}</text>'
            )
        return "".join(parts)

    def series(self, one: Series, place: int, shift: float) -> str:
        _, dash = _style(place)
        at = [(self.x(point.k) + shift, self.y(point.accuracy), point) for point in one.points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in at)
        parts = [f'<polyline class="line" points="{line}"{dash}/>']
        for x, y, point in at:
            said = f"{one.label}, k {point.k}: {100 * point.accuracy:.1f} %"
            if point.low is not None and point.high is not None:
                top, end = self.y(point.high), self.y(point.low)
                path = f"M{x:.1f} {top:.1f}V{end:.1f}M{x - 3:.1f} {top:.1f}h6M{x - 3:.1f} {end:.1f}h6"
                parts.append(f'<path class="bar" d="{path}"/>')
                said += f" ({100 * point.low:.1f} to {100 * point.high:.1f}), n {point.n:,}"
            parts.append(f"<g>{_mark(place % 5, x, y)}<title>{text(said)}</title></g>")
        return "".join(parts)


def accuracy_figure(name: str, title: str, about: str, series: Sequence[Series], chance: float | None) -> str:
    """Draw accuracy over k with intervals and the chance line, under a legend whose entries show and hide series.

    Args:
        name: makes ids of the page; letters, digits and dashes.
        title: heading of the figure.
        about: a line below it.
        series: what to draw; at least one with a point.
        chance: accuracy of guessing; None draws no line.
    """
    hops = sorted({point.k for one in series for point in one.points})
    axes = _Axes(range(hops[0], hops[-1] + 1))
    spread = min(0.5, 0.1 * (len(series) - 1)) * axes.step
    drawn, legend = [], []
    for place, one in enumerate(series):
        shift = spread * (place / (len(series) - 1) - 0.5) if len(series) > 1 else 0.0
        style, dash = _style(place)
        key, unsure = f"{name}-{place}", "" if one.sure else " unsure"
        hidden = "" if one.drawn else " hidden"
        drawn.append(f'<g id="{key}" class="{style}{unsure}"{hidden}>{axes.series(one, place, shift)}</g>')
        stroke = f'<path class="line" d="M0 9H34"{dash}/>{_mark(place % 5, 17, 9)}'
        swatch = f'<svg class="{style}" viewBox="0 0 34 18" aria-hidden="true">{stroke}</svg>'
        pressed = f'aria-pressed="{str(one.drawn).lower()}" data-series="{key}"'
        item = f'<button type="button" {pressed}>{swatch}{text(one.label)}</button>'
        legend.append(f'<li class="unsure">{item}</li>' if unsure else f"<li>{item}</li>")
    label = text(f"{title}. {about}. Series: {'; '.join(one.label for one in series)}", 1000)
    return (
        f"<figure><figcaption>{text(title)}<small>{text(about)}</small></figcaption>"
        f'<svg class="plot" role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f'{axes.frame(chance)}{"".join(drawn)}</svg><ul class="legend">{"".join(legend)}</ul></figure>'
    )


def strip(parts: Sequence[tuple[float, float, int]], label: str) -> str:
    """Draw one bar of pieces, as wide as what it stands in.

    Args:
        parts: begin, end (both 0 to 1) and colour of each piece.
        label: what it says, for those who do not see it.
    """
    pieces = "".join(
        f'<rect class="c{colour}" x="{100 * begin:.2f}" width="{100 * (end - begin):.2f}" height="10"/>'
        for begin, end, colour in parts
    )
    rail = '<rect class="rail" width="100" height="10"/>'
    box = 'viewBox="0 0 100 10" preserveAspectRatio="none"'
    return f'<svg class="strip" role="img" aria-label="{text(label)}" {box}>{rail}{pieces}</svg>'
