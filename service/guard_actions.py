"""What the guard does about breaches, and how it takes it back."""

from collections.abc import Callable
from dataclasses import replace

from engine.contract import AS_CONFIGURED, EngineTuning
from engine.model_host import ModelHost
from flowcontrol.admission.governor import Governor
from flowcontrol.features import FeatureName
from flowcontrol.remediation.actions import Action, Step, StepKind
from service.rollout import Rollout

LOWER_TO = 0.75
"""Share of the limit that is left by one LOWER_LIMIT."""
SHRINK_TO = 0.5
"""Share of the tokens of a slice that are left by one SHRINK_PREFILL."""
LEAST_SLICE_TOKENS = 16
"""Below it a slice costs hardly less time: each has costs of its own."""
THROTTLED_SHARE = 0.25
"""Share of the limit that a throttled tenant's streams may have."""


class Actions:
    """Executes the steps of the policy, in the engine's and the governor's own terms.

    decide: called after each change, when other streams may start. prefill_step_tokens: as configured.
    clock: the governor's.
    """

    def __init__(
        self,
        governor: Governor,
        models: ModelHost,
        rollout: Rollout,
        *,
        decide: Callable[[], None],
        prefill_step_tokens: int,
        clock: Callable[[], float],
    ) -> None:
        self._governor = governor
        self._models = models
        self._rollout = rollout
        self._decide = decide
        self._configured_slice = prefill_step_tokens
        self._clock = clock
        self._tuning = AS_CONFIGURED

    def execute(self, step: Step) -> None:
        """Do it. Raises what the engine or the governor raises; then nothing was changed."""
        if step.kind is StepKind.TAKE:
            self._take(step)
        else:
            self._undo(step)
        self._decide()

    def roll_back(self, feature: str, reason: str) -> None:
        """End the canary of a feature."""
        self._rollout.roll_back(FeatureName(feature), reason)

    def _take(self, step: Step) -> None:
        match step.action:
            case Action.LOWER_LIMIT:
                limit = self._governor.snapshot(self._clock()).limit
                self._governor.cap_limit(max(limit.min_streams, int(limit.limit * LOWER_TO)), self._clock())
            case Action.FIX_LIMIT:
                if not self._governor.fix_limit(self._clock()):
                    raise ValueError("the limit is fixed already")
            case Action.SHRINK_PREFILL:
                tokens = self._tuning.prefill_step_tokens or self._configured_slice
                tokens = max(LEAST_SLICE_TOKENS, int(tokens * SHRINK_TO))
                self._tune(replace(self._tuning, prefill_step_tokens=min(tokens, self._configured_slice)))
            case Action.EVICT_CACHES:
                self._tune(replace(self._tuning, max_prefix_cache_bytes=0, max_parked_kv_bytes=0))
            case Action.THROTTLE_TENANT:
                self._governor.throttle(step.subject, THROTTLED_SHARE)
            case Action.RESTART_WORKER:
                model, _, index = step.subject.rpartition("/")
                self._models.restart_worker(model, int(index), step.cause)
            case Action.ROLL_BACK_FEATURE:
                self.roll_back(step.subject, step.cause)

    def _undo(self, step: Step) -> None:
        match step.action:
            case Action.LOWER_LIMIT:
                self._governor.cap_limit(None, self._clock())
            case Action.FIX_LIMIT:
                self._governor.unfix_limit(self._clock())
            case Action.SHRINK_PREFILL:
                self._tune(replace(self._tuning, prefill_step_tokens=None))
            case Action.EVICT_CACHES:
                self._tune(replace(self._tuning, max_prefix_cache_bytes=None, max_parked_kv_bytes=None))
            case Action.THROTTLE_TENANT:
                self._governor.throttle(step.subject, None)
            case Action.RESTART_WORKER | Action.ROLL_BACK_FEATURE:
                raise ValueError(f"{step.action} cannot be undone")

    def _tune(self, tuning: EngineTuning) -> None:
        self._models.tune(tuning)
        self._tuning = tuning
