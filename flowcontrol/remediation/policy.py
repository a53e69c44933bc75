"""The policy engine: which actions are taken, and when they are undone."""

from collections.abc import Mapping
from dataclasses import dataclass

from flowcontrol.remediation.actions import (
    ONE_SHOT,
    REPEATABLE,
    Event,
    Key,
    Outcome,
    Step,
    StepKind,
)
from flowcontrol.remediation.brakes import Breaker, Pace, Swings
from flowcontrol.remediation.contract import RemediationOptions, RemediationSnapshot
from flowcontrol.remediation.journal import Journal
from flowcontrol.remediation.rules import RULES, Wanted, remains, well
from flowcontrol.remediation.signals import Signals
from flowcontrol.remediation.usual import Usual
from flowcontrol.slo_verdict import Objective, Verdict

UNDO_AFTER = 2
"""Evaluations in a row without a cause: one may be chance."""
EFFECT_INTERVALS = 2
"""Besides the fast window, which must have gone by before an action can have cleared it: one until the action
works, one for the evaluation that sees it."""
HOLD_COOL_DOWNS = 10
"""Cool-downs without a cause until what swung is undone after all; at least a slow window."""


@dataclass(slots=True)
class _InForce:
    """event: how it came in force, or that it is held. good: evaluations in a row without its cause.

    bad_s: when the cause was last there.
    """

    event: Event
    objective: Objective | None
    good: int
    bad_s: float


@dataclass(frozen=True, slots=True)
class _Trial:
    """An action whose effect is not known before due_s. level: of its rule."""

    step: Step
    objective: Objective | None
    level: int
    due_s: float


class Policy:
    """Decides; the owner executes each step and tells with `report` how it went.

    Times are monotonic seconds. Memory is bounded by the subjects there are: tenants, workers, features.
    In a dry run there are no steps; what would be in force is kept on paper, and nothing counts as having
    failed to help.
    """

    def __init__(self, options: RemediationOptions) -> None:
        self._options = options
        self._pace = Pace(cool_down_s=options.cool_down_s, max_per_hour=options.max_actions_per_hour)
        self._swings = Swings(options.max_swings)
        self._breaker = Breaker(options.max_failures)
        self._journal = Journal()
        self._usual = Usual()
        self._in_force: dict[Key, _InForce] = {}
        # Steps that the owner has not reported on, with the objective of those to be taken.
        self._pending: dict[Key, tuple[Step, Objective | None]] = {}
        self._trials: dict[Key, _Trial] = {}
        # Wanted keys that were skipped or, in a dry run, told: once each, however long they are wanted.
        self._skipped: dict[Key, str] = {}
        self._told: set[Key] = set()

    def decide(self, signals: Signals, now_s: float) -> list[Step]:
        """What is to be done now. To be called once after each evaluation of the objectives."""
        wanted = self._wanted(signals)
        self._usual.observe(signals, well=well(signals) and not self._in_force)
        self._skipped = {key: why for key, why in self._skipped.items() if key in wanted}
        self._told &= wanted.keys()
        self._judge(signals, wanted, now_s)
        steps = self._undo(signals, wanted, now_s)
        slo = signals.slo
        effect_s = slo.fast_window_s + EFFECT_INTERVALS * slo.interval_s
        for level, want in wanted.values():
            if self._may_take(level, want, now_s):
                steps.append(self._take(level, want, effect_s, now_s))
        return steps if self._options.act else []

    def report(self, step: Step, error: str | None, now_s: float) -> None:
        """How a step went; error: why it failed. A step that failed has changed nothing.

        Raises ValueError for a step that was not given, or was reported already.
        """
        if self._pending.get(step.key, (None, None))[0] != step:
            raise ValueError(f"no such step is under way: {step}")
        _, objective = self._pending.pop(step.key)
        if error is not None:
            self._note(step, Outcome.FAILED, now_s, f"{step.cause}; {error}")
            self._failed(step, error, now_s)
        elif step.kind is StepKind.TAKE:
            self._taken(step, objective, now_s)
        else:
            self._undone(step, now_s)

    def snapshot(self, now_s: float) -> RemediationSnapshot:
        return RemediationSnapshot(
            dry_run=not self._options.act,
            suspended=self._breaker.suspended(now_s),
            active=tuple(each.event for each in self._in_force.values()),
            events=self._journal.events(),
            counts=self._journal.counts(),
        )

    def _wanted(self, signals: Signals) -> dict[Key, tuple[int, Wanted]]:
        """With the level of the rule, from the most specific on."""
        wanted: dict[Key, tuple[int, Wanted]] = {}
        for rule in RULES:
            for want in rule.find(signals, self._usual):
                wanted.setdefault(want.key, (rule.level, want))
        return wanted

    def _judge(self, signals: Signals, wanted: Mapping[Key, object], now_s: float) -> None:
        """Whether the actions that have had time to work did."""
        due = [key for key, each in self._trials.items() if each.due_s <= now_s and key not in self._pending]
        for key in due:
            trial = self._trials.pop(key)
            objective = signals.slo.find(trial.objective) if trial.objective else None
            still_bad = objective.burning if objective else key in wanted
            if still_bad and self._options.act:
                self._breaker.failed(trial.step, "its cause is still there", now_s)
            elif objective is None or objective.verdict is not Verdict.UNKNOWN:
                self._breaker.helped()

    def _undo(self, signals: Signals, wanted: Mapping[Key, object], now_s: float) -> list[Step]:
        steps = []
        for key, each in list(self._in_force.items()):
            if key in self._pending:
                continue
            if key in wanted or not _is_over(each.objective, signals) or remains(key, signals, self._usual):
                each.good, each.bad_s = 0, now_s
                continue
            each.good += 1
            if each.good >= UNDO_AFTER and not self._holds(key, each, signals, now_s):
                step = Step(StepKind.UNDO, *key, "its cause has ended")
                steps.append(step)
                self._begin(step, None, now_s)
        return steps

    def _holds(self, key: Key, each: _InForce, signals: Signals, now_s: float) -> bool:
        """Whether it is left in force because it was taken and undone too often."""
        if not self._swings.too_many(key, now_s):
            return False
        hold_s = max(HOLD_COOL_DOWNS * self._options.cool_down_s, signals.slo.slow_window_s)
        if now_s - each.bad_s >= hold_s:
            self._swings.forget(key)
            return False
        if each.event.outcome is not Outcome.HELD:
            step = Step(StepKind.UNDO, *key, f"taken and undone {self._options.max_swings} times in an hour")
            each.event = self._note(step, Outcome.HELD, now_s)
        return True

    def _may_take(self, level: int, want: Wanted, now_s: float) -> bool:
        key = want.key
        if key in self._pending or key in self._trials or key in self._told:
            return False
        if key in self._in_force and (key[0] not in REPEATABLE or not self._options.act):
            return False
        if any(trial.level < level for trial in self._trials.values()):
            return False
        suspended = self._breaker.suspended(now_s)
        why_not = "suspended" if suspended else self._pace.why_not(key, now_s)
        if why_not is None:
            return True
        if self._skipped.get(key) != why_not:
            self._skipped[key] = why_not
            step = Step(StepKind.TAKE, *key, f"{want.cause}; not taken: {why_not}")
            self._note(step, Outcome.SKIPPED, now_s)
        return False

    def _take(self, level: int, want: Wanted, effect_s: float, now_s: float) -> Step:
        step = Step(StepKind.TAKE, want.action, want.subject, want.cause)
        self._pace.take(want.key, now_s)
        self._skipped.pop(want.key, None)
        self._trials[want.key] = _Trial(step, want.objective, level, now_s + effect_s)
        self._begin(step, want.objective, now_s)
        return step

    def _begin(self, step: Step, objective: Objective | None, now_s: float) -> None:
        self._pending[step.key] = step, objective
        if not self._options.act:
            self.report(step, None, now_s)

    def _taken(self, step: Step, objective: Objective | None, now_s: float) -> None:
        event = self._note(step, Outcome.TAKEN, now_s)
        if step.action not in ONE_SHOT:
            self._in_force[step.key] = _InForce(event, objective, 0, now_s)
        elif not self._options.act:
            # The cause stays as long as nothing is done.
            self._told.add(step.key)

    def _undone(self, step: Step, now_s: float) -> None:
        self._note(step, Outcome.UNDONE, now_s)
        del self._in_force[step.key]
        self._swings.undone(step.key, now_s)

    def _failed(self, step: Step, error: str, now_s: float) -> None:
        if step.kind is StepKind.TAKE:
            del self._trials[step.key]
            self._breaker.failed(step, error, now_s)
        else:
            self._in_force[step.key].good = 0

    def _note(self, step: Step, outcome: Outcome, now_s: float, cause: str = "") -> Event:
        event = Event(
            action=step.action,
            subject=step.subject,
            cause=cause or step.cause,
            outcome=outcome,
            dry_run=not self._options.act,
            at_s=now_s,
        )
        self._journal.note(event)
        return event


def _is_over(name: Objective | None, signals: Signals) -> bool:
    """Whether the breach has ended, for which the guard asks more than one good look."""
    objective = signals.slo.find(name) if name else None
    return objective is None or objective.breached_since_s is None
