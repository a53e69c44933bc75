"""Charts of text: a row of blocks, an area below a line, a bar. Without colour they say the same."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

Values = Sequence[float | None]

_BLOCKS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = 8
_LINE = "▁"
_FULL, _HALF, _EMPTY = "━", "╸", "─"


def greatest(*series: Values) -> float:
    """The greatest value; 0 when there is none."""
    return max((value for values in series for value in values if value is not None), default=0.0)


def spark(values: Values, width: int, *, beside: Values = ()) -> str:
    """The latest values in one row, one column each, the newest at the right; blank where none is known.

    The greatest of them fills its column, or the greatest of the latest values of `beside`.
    """
    latest = values[-width:] if width > 0 else ()
    top = greatest(latest, beside[-width:] if width > 0 else ())
    return "".join(_column(value, top) for value in latest).rjust(max(0, width))


def _column(value: float | None, top: float) -> str:
    if value is None:
        return " "
    level = math.ceil(value / top * _EIGHTHS) if top > 0 else 0
    return _BLOCKS[min(_EIGHTHS, max(1, level))]


def bar(filled: float, width: int, style: str) -> Text:
    """A bar, heavy as far as it is filled. filled: a share, drawn as at least 0 and at most 1."""
    halves = round(min(1.0, max(0.0, filled)) * width * 2)
    if filled > 0:
        halves = max(1, halves)
    whole, half = divmod(halves, 2)
    return Text.assemble((_FULL * whole + _HALF * half, style), (_EMPTY * (width - whole - half), "dim"))


@dataclass(frozen=True)
class Area:
    """A chart of several rows.

    values: what is filled. line: what is drawn as a line above, such as a limit, or nothing. style: of the
    area; the line is yellow.
    """

    values: Values
    line: Values
    style: str

    def rows(self, width: int, height: int) -> list[Text]:
        """From the top; each exactly `width` columns, the newest value at the right."""
        values, line = _padded(self.values, width), _padded(self.line, width)
        top = greatest(values, line)
        # A line lies at the lower edge of the row above it.
        filled_rows = height - 1 if any(value is not None for value in self.line) and height > 1 else height
        columns = [
            self._cells(value, limit, top, filled_rows, height)
            for value, limit in zip(values, line, strict=True)
        ]
        return [
            Text.assemble(*(column[row] for column in columns), no_wrap=True)
            for row in reversed(range(height))
        ]

    def _cells(
        self, value: float | None, line: float | None, top: float, filled_rows: int, height: int
    ) -> list[tuple[str, str]]:
        """A column, from the bottom."""
        cells = [(" ", "")] * height
        if line is not None and top > 0:
            cells[min(height - 1, math.ceil(line / top * filled_rows))] = (_LINE, "yellow")
        if value is None:
            return cells
        eighths = math.ceil(value / top * filled_rows * _EIGHTHS) if top > 0 else 0
        eighths = min(height * _EIGHTHS, max(1, eighths))
        for row in range(math.ceil(eighths / _EIGHTHS)):
            filled = min(_EIGHTHS, eighths - row * _EIGHTHS)
            # With its own colour behind it a full block has no seams, whatever the font.
            cells[row] = (
                _BLOCKS[filled],
                f"{self.style} on {self.style}" if filled == _EIGHTHS else self.style,
            )
        return cells


def _padded(values: Values, width: int) -> list[float | None]:
    latest = list(values[-width:])
    return [None] * (width - len(latest)) + latest
