"""What callers see of admission: who is refused and how soon, shares of tenants, a burst that retries.

All on one server with the embedded model and the configuration as it comes.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.admission_bench import Bench, Seen, admission_bench
from benchmarks.admission_calls import (
    Call,
    Load,
    Shares,
    each_second,
    served,
    shares,
    summarise,
    tenant_rates,
    tokens_per_s,
)
from benchmarks.measure import percentile
from benchmarks.plots import Panel, draw
from benchmarks.processes import Child
from benchmarks.report import this_environment
from benchmarks.result import Cell, Result, Row
from benchmarks.scripted_server import ScriptedOptions
from config import load as load_config
from service.load.attempt import Ending

OUTPUT_TOKENS = 32
_GOAL_REFUSED, _GOAL_TTFT, _GOAL_REFUSAL_MS, _GOAL_SHARE = 0.02, 1.2, 50.0, 0.9
LIGHT = tuple(f"light-{number}" for number in range(1, 10))
HEAVY = "heavy"
# Enough callers for full batches and few enough that nobody is refused.
_CAPACITY_CALLERS = 64
_BURST_TIMES = 10.0
_BURST_TRIES = 5
# Outside of the burst, of the capacity.
_CALM_SHARE = 0.5
_AFTERMATH_S = 4
# Of the picture, around the beginning of the burst.
_DRAWN_BEFORE_S, _DRAWN_AFTER_S = 2, 13


class Plan(msgspec.Struct, frozen=True):
    """How long each part is. rounds: of callers that all ask at once.

    overloads: what tenants ask for together, by capacity. as_one_tenant: whether also without names.
    lead_s, shares_s, tail_s: of that; what is asked in shares_s counts, and the load goes on for tail_s, so
    that all of it is answered under the same load.
    """

    capacity_s: float
    rounds: int
    callers_s: float
    crowd: tuple[str, ...]
    crowd_s: float
    overloads: tuple[float, ...]
    as_one_tenant: bool
    lead_s: float
    shares_s: float
    tail_s: float
    calm_s: float
    burst_s: float
    after_s: float


_FULL = Plan(8.0, 6, 30.0, ("default", "interactive"), 40.0, (1.5, 3.0), True, 8.0, 20.0, 7.0, 5.0, 4.0, 25.0)
_QUICK = Plan(4.0, 2, 4.0, ("default",), 6.0, (3.0,), False, 3.0, 8.0, 2.0, 2.0, 2.0, 5.0)


class CallersResult(Result, frozen=True):
    """series: what is drawn besides the rows, by name."""

    series: dict[str, dict[str, list[float]]]


def run(*, quick: bool) -> Result:
    """All parts on one server."""
    with admission_bench() as bench:
        parts = _Parts(bench, _QUICK if quick else _FULL)
        parts.at_once()
        parts.capacity()
        parts.callers()
        parts.crowds()
        parts.instant()
        parts.tenants()
        parts.burst()
    environment = this_environment()
    return CallersResult("callers", environment, parts.rows, parts.ratios, series=parts.series)


class _Parts:
    """The parts in the order in which they are run, and what they came to."""

    def __init__(self, bench: Bench, plan: Plan) -> None:
        self.rows: list[Row] = []
        self.ratios: Row = {}
        self.series: dict[str, dict[str, list[float]]] = {}
        self._bench = bench
        self._plan = plan
        self._capacity_tokens_per_s = 0.0
        settings = load_config(None, None, {}, {}).settings
        target_s = settings.stream_registry.adaptive_limits.target_ttft_ms / 1e3
        self._target_s = {
            name: target_s * getattr(settings.admission.classes, name).target_factor
            for name in ("default", "interactive")
        }

    def at_once(self) -> None:
        """75 callers that ask once, all at the same time: on a server just started, and again."""
        load = self._load([(0.0, 1.0)], callers=75, max_requests=75)
        fresh = self._bench.see(load)
        self._row("75 at once, server just started", load, fresh)
        seen = [self._bench.see(self._load([(0.0, 1.0)], callers=75, max_requests=75, seed=n))
                for n in range(1, self._plan.rounds + 1)]  # fmt: skip
        calls = [call for one in seen for call in one.observed.calls]
        row = self._row(f"75 at once, {len(seen)} times", load, seen[-1], calls=calls)
        row["refused, by the server"] = sum(one.server_refused for one in seen)
        self._goal_refused("75 callers at once", calls)

    def capacity(self) -> None:
        """Tokens per second with as many callers as are not refused."""
        plan = self._plan
        load = self._load([(0.0, plan.capacity_s)], callers=_CAPACITY_CALLERS)
        seen = self._bench.see(load)
        # The first and last answers come in waves.
        window = (plan.capacity_s / 4, plan.capacity_s)
        self._capacity_tokens_per_s = tokens_per_s(seen.observed.calls, *window)
        self._row(f"capacity: {_CAPACITY_CALLERS} callers", load, seen)
        self.ratios["capacity, tokens/s"] = self._capacity_tokens_per_s

    def callers(self) -> None:
        """75 callers that ask, read and ask again."""
        load = self._load([(0.0, self._plan.callers_s)], callers=75)
        seen = self._bench.see(load)
        self._row("75 callers", load, seen)
        self._goal_refused("75 callers", seen.observed.calls)

    def crowds(self) -> None:
        """300 callers, in each of the classes."""
        for name in self._plan.crowd:
            load = self._load([(0.0, self._plan.crowd_s)], callers=300, priority=name)
            seen = self._bench.see(load, probing=True)
            row = self._row(f"300 callers, {name}", load, seen)
            goal = f"300 callers, {name}"
            limit = f"(goal {_GOAL_TTFT})"
            self.ratios[f"{goal}: p95 TTFT of the accepted by the target {limit}"] = row["TTFT p95 / target"]
            limit = f"(goal {_GOAL_REFUSAL_MS:.0f})"
            self.ratios[f"{goal}: ms to a refusal, p95 {limit}"] = row["refusal p95 ms"]
            later = summarise([call for call in seen.observed.calls if call.sent_s >= 1.0])
            self.ratios[f"{goal}: the same, of calls after the first second"] = _ms(later.refusal_p95_s)
            self.ratios[f"{goal}: the same, seen by a quiet client"] = row["quiet client, refusal p95 ms"]
            self.ratios[f"{goal}: the same, in the server's handler"] = row["handler, refusal p95 ms"]
            self.ratios[f"{goal}: share of refusals that came after waiting"] = row["refused late"]
            self.ratios[f"{goal}: without a typed answer (goal 0)"] = row["untyped"]

    def instant(self) -> None:
        """300 callers that ask once, all at the same time, of which most are refused; the same callers at a
        handler that only refuses.
        """
        seen: list[Seen] = []
        bare: list[Call] = []
        load = self._load([(0.0, 1.0)], callers=300, max_requests=300, priority="interactive")
        with Child("benchmarks.scripted_server", ScriptedOptions(kind="refusing").encoded()) as refusing:
            target = refusing.read_line()
            for _ in range(self._plan.rounds):
                seen.append(self._bench.see(load))
                bare += self._bench.ask(msgspec.structs.replace(load, target=target)).calls
        calls = [call for one in seen for call in one.observed.calls]
        row = self._row(f"300 at once, interactive, {len(seen)} times", load, seen[-1], calls=calls)
        row["refused, by the server"] = sum(one.server_refused for one in seen)
        of_bare = _ms(summarise(bare).refusal_p95_s)
        self.ratios["300 at once, interactive: ms to a refusal, p95"] = row["refusal p95 ms"]
        self.ratios["300 at once, interactive: the same, of a bare handler that refuses all"] = of_bare

    def tenants(self) -> None:
        """Ten tenants, of which one asks for ten times as much as each other; told apart, and not."""
        plan = self._plan
        requests_per_s = self._capacity_tokens_per_s / OUTPUT_TOKENS
        window = (plan.lead_s, plan.lead_s + plan.shares_s)
        drawn: dict[str, list[float]] = {}
        for overload in plan.overloads:
            rates = dict(tenant_rates(LIGHT, HEAVY, 10.0, overload * requests_per_s))
            for nameless in (False, True) if plan.as_one_tenant else (False,):
                load = self._load(
                    [(sum(rates.values()), sum(window) - plan.lead_s + plan.tail_s)],
                    tenants=rates,
                    nameless=nameless,
                )
                seen = self._bench.see(load)
                one = shares(seen.observed.calls, (*LIGHT, HEAVY), *window)
                how = "as one tenant" if nameless else "ten tenants"
                what = f"{overload:g} x capacity, {how}"
                row = self._row(what, load, seen, window=window)
                row.update(_share_cells(one))
                drawn[what] = [one.share[name] for name in (*LIGHT, HEAVY)]
                goal = "" if nameless else f" (goal {_GOAL_SHARE})"
                self.ratios |= {
                    f"{what}: least share of the nine, of their fair share{goal}": row["least share"],
                    f"{what}: Jain's index of all shares": row["Jain"],
                    f"{what}: asked for, by what was answered": row["asked / answered"],
                }
        self.series["share of the fair share"] = drawn

    def burst(self) -> None:
        """Ten times the capacity for some seconds, from callers that try again when they are told to."""
        plan = self._plan
        rate_per_s = self._capacity_tokens_per_s / OUTPUT_TOKENS
        calm = _CALM_SHARE * rate_per_s
        phases = [(calm, plan.calm_s), (_BURST_TIMES * rate_per_s, plan.burst_s), (calm, plan.after_s)]
        load = self._load(phases, max_tries=_BURST_TRIES)
        seen = self._bench.see(load, probing=True)
        calls = seen.observed.calls
        begin_s, end_s = plan.calm_s, plan.calm_s + plan.burst_s
        row = self._row(
            f"burst of {_BURST_TIMES:g} x capacity", load, seen, window=(begin_s, load.duration_s)
        )
        refused = each_second(calls, Ending.REFUSED)
        retries = each_second([call for call in calls if call.tries > 1], Ending.REFUSED)
        answers = each_second(calls, Ending.ANSWERED)
        length = max(len(refused), len(answers))
        self.series["burst, calls per second"] = {
            "refused": _filled(refused, length),
            "of these, tries again": _filled(retries, length),
            "answered": _filled(answers, length),
        }
        self.series["burst, from second"] = {"": [plan.calm_s]}
        refusals_s = [call.ended_s for call in calls if call.ending == Ending.REFUSED]
        in_burst = sum(begin_s <= time_s < end_s for time_s in refusals_s)
        # The first answers of a burst take their time.
        rate = tokens_per_s(calls, begin_s + 1, end_s + _AFTERMATH_S) / self._capacity_tokens_per_s
        last_s = max(refusals_s, default=end_s)
        self.ratios |= {
            "burst: refusals per second, mean": in_burst / plan.burst_s,
            "burst: refusals per second, most": max(refused, default=0),
            f"burst: tokens/s of answers until {_AFTERMATH_S} s after it, by capacity": rate,
            "burst: share of its requests answered in the end": served(calls, begin_s, end_s),
            "burst: last refusal, seconds after its end": max(0.0, last_s - end_s),
            "burst: ms to a refusal, p50": row["refusal p50 ms"],
            "burst: the same, seen by a quiet client": row["quiet client, refusal p50 ms"],
        }

    def _load(self, phases: list[tuple[float, float]], **fields: Any) -> Load:
        return Load(self._bench.target, phases, max_tokens=OUTPUT_TOKENS, **fields)

    def _goal_refused(self, who: str, calls: Sequence[Call]) -> None:
        summary = summarise(calls)
        self.ratios[f"{who}: share refused (goal {_GOAL_REFUSED})"] = summary.refused_share
        self.ratios[f"{who}: lost or without a typed answer (goal 0)"] = summary.untyped + summary.cut

    def _row(
        self,
        what: str,
        load: Load,
        seen: Seen,
        *,
        calls: Sequence[Call] | None = None,
        window: tuple[float, float] | None = None,
    ) -> Row:
        """calls: when not only those of `seen`. window: when not from beginning to end of the load."""
        calls = seen.observed.calls if calls is None else calls
        window = window or (0.0, load.duration_s)
        summary, target_s = summarise(calls), self._target_s[load.priority]
        probe = summarise(seen.probe)
        p95_s = summary.ttft_p95_s
        row: Row = {
            "case": what,
            "calls": summary.calls,
            "answered": summary.answered,
            "refused": summary.refused,
            "refused, share": summary.refused_share,
            "untyped": summary.untyped,
            "failed": summary.failed,
            "cut": summary.cut,
            "reasons": " ".join(f"{name}:{count}" for name, count in summary.reasons.items()),
            "no delay told": summary.untold,
            "TTFT p50 ms": _ms(summary.ttft_p50_s),
            "TTFT p95 ms": _ms(p95_s),
            "TTFT p95 / target": None if p95_s is None else p95_s / target_s,
            "refusal p50 ms": _ms(summary.refusal_p50_s),
            "refusal p95 ms": _ms(summary.refusal_p95_s),
            "refused late": summary.late_refusals,
            "quiet client, refusal p50 ms": _ms(probe.refusal_p50_s),
            "quiet client, refusal p95 ms": _ms(probe.refusal_p95_s),
            "quiet client, refused": probe.refused if seen.probe else None,
            "quiet client, TTFT p95 ms": _ms(probe.ttft_p95_s),
            "handler, refusal p95 ms": _ms(_p95(seen.refusals.at_once_s)),
            "handler, refused after waiting": len(seen.refusals.waited_s),
            "refused, by the server": seen.server_refused,
            "tokens/s": None if load.max_requests else tokens_per_s(calls, *window),
            "limit after": seen.limit,
            "sent late p95 ms": _ms(summary.sent_late_p95_s),
            "client's loop lag p95 ms": _ms(seen.observed.loop_lag_p95_s),
            "server's loop lag p95 ms": _ms(seen.refusals.loop_lag_p95_s),
            "client, cores": seen.client_cores,
            "server, cores": seen.server_cores,
            "others, cores": seen.other_cores,
        }
        print(f"  {row}", file=sys.stderr, flush=True)
        self.rows.append(row)
        return row


def _share_cells(one: Shares) -> Row:
    light = [one.share[name] for name in LIGHT]
    return {
        "least share": min(light),
        "mean share": sum(light) / len(light),
        "heavy share": one.share[HEAVY],
        "Jain": one.jain,
        "asked / answered": one.overload,
    }


def _filled(counts: Sequence[int], length: int) -> list[float]:
    return [float(count) for count in counts] + [0.0] * (length - len(counts))


def _p95(values: Sequence[float]) -> float | None:
    return percentile(sorted(values), 0.95) if values else None


def _ms(time_s: float | None) -> Cell:
    return None if time_s is None else time_s * 1e3


def plot(result: Result, path: Path) -> None:
    assert isinstance(result, CallersResult)
    burst = result.series["burst, calls per second"]
    begin = int(result.series["burst, from second"][""][0])
    drawn = range(begin - _DRAWN_BEFORE_S, begin + _DRAWN_AFTER_S)
    seconds = [second for second in drawn if second < len(burst["answered"])]
    names = [name.removeprefix("light-") for name in (*LIGHT, HEAVY)]
    draw(
        path,
        "admission with callers",
        [
            Panel("Share of the fair share", "ratio", names, result.series["share of the fair share"],
                  goal=_GOAL_SHARE),
            Panel("A burst of callers that try again", "calls per second",
                  [str(second - begin) for second in seconds],
                  {name: [counts[second] for second in seconds] for name, counts in burst.items()},
                  lines=True),
        ],
    )  # fmt: skip
