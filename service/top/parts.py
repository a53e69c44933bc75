"""The parts of a picture and how they share the rows of a terminal."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

NATURAL_ROWS = 60
"""Rows of a picture that is not bounded by a terminal."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the picture, from the left edge to the right one.

    draw: what it is in a given number of rows, `least` or more; it takes those and no more. least: with fewer
    it is left out. wish: rows that it is given before any part is given more. most: rows that it can use;
    0: wish. rank: parts of a higher one are left out first.
    """

    draw: Callable[[int], Iterable[RenderableType]]
    least: int = 1
    wish: int = 1
    most: int = 0
    rank: int = 0


def allotted(parts: Sequence[Part], rows: int) -> list[int]:
    """The rows of each part, together at most `rows`; 0: it is left out.

    The least of each by rank, then what it wishes; then what it can use, in the opposite order, so that long
    lists grow before charts do.
    """
    given = [0] * len(parts)
    left = rows
    by_rank = sorted(range(len(parts)), key=lambda place: parts[place].rank)
    for place in by_rank:
        if parts[place].least <= left:
            given[place] = parts[place].least
            left -= given[place]
    left = _more(parts, given, by_rank, left, lambda part: part.wish)
    _more(parts, given, by_rank[::-1], left, lambda part: part.most)
    return given


def _more(
    parts: Sequence[Part], given: list[int], order: Sequence[int], left: int, wanted: Callable[[Part], int]
) -> int:
    """Give parts that are shown more, up to what they want; the rows that are left then."""
    for place in order:
        if given[place]:
            more = min(left, max(0, wanted(parts[place]) - given[place]))
            given[place] += more
            left -= more
    return left


def one_line(draw: Callable[[], Any], rank: int) -> Part:
    return Part(lambda _: [draw()], rank=rank)
