"""A story's agents on a grid, for people."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["draw_map"]


def draw_map(positions: Mapping[str, tuple[int, int]]) -> str:
    """Draw agents on a character grid, up being up; agents on one spot share a cell, joined by ``+``.

    Args:
        positions: agent -> (x, y) in steps, as `stepgame.solve.Answer` has them.
    """
    cells: dict[tuple[int, int], list[str]] = {}
    for agent, place in sorted(positions.items()):
        cells.setdefault(place, []).append(agent)
    columns = range(min(x for x, _ in cells), max(x for x, _ in cells) + 1)
    rows = range(max(y for _, y in cells), min(y for _, y in cells) - 1, -1)
    text = {place: "+".join(agents) for place, agents in cells.items()}
    widths = {x: max(1, *(len(text.get((x, y), "")) for y in rows)) for x in columns}
    lines = (" ".join(text.get((x, y), "·").ljust(widths[x]) for x in columns).rstrip() for y in rows)
    return "\n".join(lines)
