"""FeatureService: for which streams features are on, shown and changed while the server runs."""

from typing import Any
from urllib.parse import unquote

import grpc
import structlog

from flowcontrol.arm_comparison import ArmSnapshot, ComparisonSnapshot
from flowcontrol.features import CanaryError, FeatureName, FeatureSnapshot, FeatureState
from flowcontrol.reasons import Reason
from penstock.v1 import feature_pb2 as pb
from penstock.v1 import feature_pb2_grpc
from service.calls import answering_errors
from service.errors import ServiceError, Violation
from service.identity import is_local
from service.limits import MAX_NOTE_CHARACTERS
from service.rollout import Rollout

STATES = {state: pb.FeatureState.Value(f"FEATURE_STATE_{state.name}") for state in FeatureState}
Context = grpc.aio.ServicerContext[Any, Any]

_CHANGES = ("promote", "roll_back", "canary_percent")
_log = structlog.get_logger("penstock.features")


def features(rollout: Rollout) -> list[pb.Feature]:
    """Each feature as a message, in the order of their names."""
    return [_feature(one, comparison) for one, comparison in rollout.snapshot()]


def _feature(snapshot: FeatureSnapshot, comparison: ComparisonSnapshot | None) -> pb.Feature:
    return pb.Feature(
        name=snapshot.name.value,
        state=STATES[snapshot.state],
        canary_percent=snapshot.canary_percent,
        tenants=sorted(snapshot.tenants),
        comparison=None if comparison is None else _comparison(comparison),
        reason=snapshot.reason,
    )


def _comparison(snapshot: ComparisonSnapshot) -> pb.ArmComparison:
    return pb.ArmComparison(
        control=_arm(snapshot.control), canary=_arm(snapshot.canary), verdict=snapshot.verdict.text
    )


def _arm(snapshot: ArmSnapshot) -> pb.Arm:
    return pb.Arm(
        streams=snapshot.streams,
        ttft_p50_ms=_ms(snapshot.ttft_p50_s),
        ttft_p95_ms=_ms(snapshot.ttft_p95_s),
        inter_token_p95_ms=_ms(snapshot.inter_token_p95_s),
        failed=snapshot.failed,
    )


def _ms(time_s: float | None) -> float | None:
    return None if time_s is None else time_s * 1e3


def read_update(request: pb.UpdateFeatureRequest) -> FeatureName:
    """The feature to change. Raises ServiceError INVALID_REQUEST with every field at fault."""
    violations = []
    names = [name.value for name in FeatureName]
    change = request.WhichOneof("change")
    if request.name not in names:
        violations.append(Violation("name", f'got "{request.name[:64]}"; allowed: {", ".join(names)}'))
    if change is None:
        text = f"nothing to change; allowed: one of {', '.join(_CHANGES)}"
        violations.append(Violation("change", text))
    if change == "canary_percent":
        if not 0 < request.canary_percent < 100:
            text = f"got {request.canary_percent:g}; allowed: above 0 and below 100"
            violations.append(Violation("canary_percent", text))
        if request.name == FeatureName.ADAPTIVE_LIMITS:
            text = "adaptive_limits has no canary: all streams share one limit; allowed: promote, roll_back"
            violations.append(Violation("canary_percent", text))
    if len(request.note) > MAX_NOTE_CHARACTERS:
        text = f"got {len(request.note)} characters; allowed: at most {MAX_NOTE_CHARACTERS}"
        violations.append(Violation("note", text))
    if violations:
        message = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise ServiceError(Reason.INVALID_REQUEST, message, violations=violations)
    return FeatureName(request.name)


class FeatureServicer(feature_pb2_grpc.FeatureServiceServicer):
    """Shows and changes features. remote_control: whether a caller on another machine may change them."""

    def __init__(self, rollout: Rollout, *, remote_control: bool) -> None:
        self._rollout = rollout
        self._remote_control = remote_control

    @answering_errors
    async def ListFeatures(
        self, request: pb.ListFeaturesRequest, context: Context
    ) -> pb.ListFeaturesResponse:
        return pb.ListFeaturesResponse(features=features(self._rollout))

    @answering_errors
    async def UpdateFeature(
        self, request: pb.UpdateFeatureRequest, context: Context
    ) -> pb.UpdateFeatureResponse:
        peer = context.peer()
        if not self._remote_control and not is_local(peer):
            message = "admission.remote_control is off: features are changed on the server's own machine only"
            raise ServiceError(Reason.NOT_ALLOWED, message)
        name = read_update(request)
        before = self._feature(name)
        try:
            self._change(name, request)
        except CanaryError as error:
            raise ServiceError(Reason.CANARY_RUNNING, str(error)) from error
        after = self._feature(name)
        _log.info(
            "feature changed",
            peer=unquote(peer),
            note=request.note,
            feature=name.value,
            before=_logged(before),
            after=_logged(after),
        )
        return pb.UpdateFeatureResponse(feature=after)

    def _feature(self, name: FeatureName) -> pb.Feature:
        return next(one for one in features(self._rollout) if one.name == name)

    def _change(self, name: FeatureName, request: pb.UpdateFeatureRequest) -> None:
        match request.WhichOneof("change"):
            case "promote":
                self._rollout.promote(name, request.note or "promoted by an operator")
            case "roll_back":
                self._rollout.roll_back(name, request.note or "rolled back by an operator")
            case "canary_percent":
                reason = request.note or f"canary of {request.canary_percent:g} % begun by an operator"
                self._rollout.set_canary(name, request.canary_percent, reason)


def _logged(feature: pb.Feature) -> dict[str, object]:
    """What the change is about, for the audit line."""
    state = pb.FeatureState.Name(feature.state).removeprefix("FEATURE_STATE_").lower()
    return {"state": state, "canary_percent": feature.canary_percent}
