"""One picture of `penstock top`, fitted to the width and the height that it is drawn in."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from penstock.v1.status_pb2 import Status
from service.terminal import duration
from service.top import compact, framed
from service.top.attention import MARKS, STYLES, Concern, Severity, concerns, health
from service.top.history import History
from service.top.lines import cut, ends, packed
from service.top.parts import NATURAL_ROWS, Part, allotted
from service.top.words import clean, finite

_FRAMED_WIDTH = 100
_FRAMED_HEIGHT = 34
_ATTENTION_ROWS = 2
_MOST_ATTENTION_ROWS = 4


@dataclass(frozen=True)
class Frame:
    """What was heard last, and whether anything is heard now. Fits itself into what it is drawn in.

    heard_at: time of day of `now`. lost: why nothing is heard; empty while all is well. paused: whether the
    view stands still. Without a height, as in a pipe, it is as long as it needs to be.
    """

    target: str
    now: Status | None
    history: History
    heard_at: str = ""
    lost: str = ""
    paused: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height
        if self.now is None:
            yield self._header(width)
            yield self._notice(width)
            return
        large = height is not None and height >= _FRAMED_HEIGHT and width >= _FRAMED_WIDTH
        make = framed.parts if large else compact.parts
        parts = [self._top(self.now, width), *make(self.now, self.history, width)]
        for part, rows in zip(parts, allotted(parts, height or NATURAL_ROWS), strict=True):
            if rows:
                yield from part.draw(rows)

    def _top(self, now: Status, width: int) -> Part:
        found = concerns(now, self.history)
        most = 1 if self.lost else max(1, len(packed(found, width, _MOST_ATTENTION_ROWS)))

        def draw(rows: int) -> Sequence[Text]:
            if rows == 1:
                return [self._header(width)]
            if self.lost:
                return [self._header(width), self._notice(width)]
            attention = packed(found, width, rows - 1) or [cut(Text("Nothing needs attention", "dim"), width)]
            return [self._header(width), *attention]

        return Part(draw, least=2, wish=1 + min(most, _ATTENTION_ROWS), most=1 + most)

    def _header(self, width: int) -> Text:
        now = self.now
        name = (" Penstock ", "bold reverse")
        if now is None:
            return cut(Text.assemble(name, f"  {clean(self.target)}"), width)
        up = duration(max(0.0, finite(now.uptime_s) or 0.0))
        where = Text.assemble(name, f"  {clean(now.version)}  {clean(self.target)}  up {up}")
        word = Concern(Severity.CRITICAL, "no connection") if self.lost else health(now)
        state = (f"{MARKS[word.severity]} {word.text}", STYLES[word.severity])
        pause = "  paused" if self.paused else ""
        return ends(where, Text.assemble(state, f"{pause}  {self.heard_at}"), width)

    def _notice(self, width: int) -> Text:
        if not self.lost:
            return cut(Text("connecting", "dim"), width)
        kept = "" if self.now is None else f"; the values are those of {self.heard_at}"
        return cut(Text(f"{self.lost}, trying again{kept}", STYLES[Severity.CRITICAL]), width)
