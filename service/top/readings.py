"""Values of `penstock top` that are taken from one place or, where the server has none, from another."""

from dataclasses import dataclass

from penstock.v1.status_pb2 import Status
from service.top.charts import Values
from service.top.guard import fast
from service.top.history import History
from service.top.words import finite, milliseconds

_TTFT_OBJECTIVES = ("ttft_p95", "ttft_p50")


@dataclass(frozen=True)
class Trend:
    """Values over time, others on the same scale, and a remark."""

    values: Values
    beside: Values
    note: str


@dataclass(frozen=True)
class FirstToken:
    """Time to first token in milliseconds, over time, beside its target."""

    value: str
    values: Values
    target_ms: float
    note: str

    @property
    def trend(self) -> Trend:
        return Trend(self.values, [self.target_ms], self.note)


def first_token(now: Status, history: History) -> FirstToken:
    """From the objective for it; without one, from what steers the limit."""
    by_name = {one.name: one for one in now.service_levels.objectives}
    for name in _TTFT_OBJECTIVES:
        if name in by_name:
            one = by_name[name]
            values = [sample.objectives.get(name) for sample in history.samples]
            note = f"{name.removeprefix('ttft_')}, target {milliseconds(one.target)}"
            return FirstToken(milliseconds(fast(one)), values, finite(one.target) or 0.0, note)
    target_ms = float(now.admission.limits.target_ttft_ms)
    loads = [sample.ttft_load for sample in history.samples]
    values = [None if load is None else load * target_ms for load in loads]
    now_ms = values[-1] if values else None
    return FirstToken(milliseconds(now_ms), values, target_ms, f"target {milliseconds(target_ms)}")
