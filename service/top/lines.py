"""Single lines of `penstock top`, each exactly as wide as asked or less."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from penstock.v1.feature_pb2 import FeatureState
from penstock.v1.status_pb2 import Objective, Status
from service.cli_limits import last_change, reason
from service.top.attention import MARKS, STYLES, Concern, Severity
from service.top.charts import spark
from service.top.guard import breached, event, fast, feature, in_unit, past, title
from service.top.history import History
from service.top.readings import Trend
from service.top.tables import objective_mark, tenant_name
from service.top.words import clean, number, seconds, share

LABEL = 11
_VALUE = 8
_BETWEEN = " · "
_SHOWN_TENANTS = 5
_CHANGED = (FeatureState.FEATURE_STATE_CANARY, FeatureState.FEATURE_STATE_ROLLED_BACK)


def cut(text: Text, width: int) -> Text:
    """At most so wide, with an ellipsis where something is missing."""
    text.truncate(max(0, width), overflow="ellipsis")
    text.no_wrap = True
    return text


def ends(left: Text, right: Text, width: int) -> Text:
    """One text at each end of a line; the left one gives way."""
    right = cut(right, width)
    left = cut(left, width - right.cell_len - 1)
    between = " " * max(0, width - left.cell_len - right.cell_len)
    return Text.assemble(left, between, right, no_wrap=True)


def packed(found: Sequence[Concern], width: int, rows: int) -> list[Text]:
    """Concerns one after the other in at most so many lines; the last line counts those that are left."""
    lines: list[Text] = []
    for place, one in enumerate(found):
        item = Text.assemble((f"{MARKS[one.severity]} {one.text}", STYLES[one.severity]))
        more = f"{_BETWEEN}{len(found) - place - 1} more" if place + 1 < len(found) else ""
        room = width - (cell_len(more) if len(lines) == rows else 0)
        if lines and lines[-1].cell_len + len(_BETWEEN) + item.cell_len <= room:
            lines[-1].append(_BETWEEN, "dim").append_text(item)
        elif len(lines) < rows:
            reserve = cell_len(more) if len(lines) + 1 == rows else 0
            lines.append(cut(item, width - reserve))
        else:
            lines[-1].append(f"{_BETWEEN}{len(found) - place} more", "dim")
            break
    return [cut(line, width) for line in lines]


def trend(label: str, value: str, one: Trend, width: int, style: str) -> Text:
    """A name, the value of now, how it went, and a remark."""
    note_width = min(38, max(14, width * 35 // 100))
    chart = width - LABEL - _VALUE - note_width - 3
    line = Text.assemble((label.ljust(LABEL), "bold"), value.rjust(_VALUE), " ")
    if chart > 0:
        line.append(spark(one.values, chart, beside=one.beside), style).append("  ")
    return cut(line.append(one.note, "dim"), width)


def labelled(label: str, text: Text, width: int) -> Text:
    return cut(Text.assemble((label.ljust(LABEL), "bold"), text), width)


def changed(now: Status) -> Text:
    """Why the limit is what it is."""
    limits = now.admission.limits
    return Text(f"{reason(limits)} ({last_change(limits)})")


def queue_note(now: Status) -> str:
    """What waits, and for how long."""
    limits = now.admission.limits
    when = f", last in {seconds(limits.drain_ms / 1e3)}" if limits.queued and limits.drain_ms else ""
    return f"{number(now.admission.queued_tokens)} tokens{when}"


def refusals(history: History) -> Text:
    """By reason, per second."""
    if not history.refused_per_s:
        return Text("none now", "dim")
    parts = [f"{clean(name)} {number(rate)}/s" for name, rate in history.refused_per_s.items()]
    return Text(_BETWEEN.join(parts), "yellow")


def objective_line(one: Objective, width: int) -> Text:
    """One objective in half of a line of 80."""
    line = Text.assemble(objective_mark(one))
    value = fast(one)
    if value is None:
        return cut(line.append(f" {title(one)} too few samples ({one.samples})", "dim"), width)
    burnt = f", burn {number(one.fast_burn_rate)}" if one.HasField("fast_burn_rate") else ""
    style = "bold red" if breached(one) else ""
    text = f" {title(one)} {in_unit(one, value)} of {in_unit(one, one.target)}{burnt}"
    return cut(line.append(text, style), width)


NO_OBJECTIVES = "no objectives on this server (slo.enabled)"


def actions(now: Status) -> list[Concern]:
    """Actions in force, features on their way, and the latest events, in this order."""
    active = [_action(event(one), one.cause, Severity.WARNING) for one in now.remediation.active]
    features = [
        Concern(
            Severity.WARNING if one.state == FeatureState.FEATURE_STATE_ROLLED_BACK else Severity.GOOD,
            feature(one),
        )
        for one in now.features
        if one.state in _CHANGED
    ]
    events = [_action(event(one), one.cause, Severity.GOOD) for one in past(now.remediation)]
    return [*active, *features, *events]


def _action(text: str, cause: str, severity: Severity) -> Concern:
    return Concern(severity, f"{text}: {clean(cause)}" if cause else text)


def tenant_line(now: Status) -> Text:
    """The tenants with the most tokens and their shares."""
    listed = now.admission.tenants
    total = sum(one.tokens for one in listed)
    parts = [
        f"{tenant_name(one.name)} {share(round(one.tokens / total, 2) if total else 0.0)}"
        for one in listed[:_SHOWN_TENANTS]
    ]
    return Text(_BETWEEN.join(parts))
