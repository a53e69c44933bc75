"""Features that may be on for some streams only, and which streams those are."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

CONTROL, CANARY = "control", "canary"
"""The arms: streams without the feature that is tried out, and streams with it."""


class FeatureName(StrEnum):
    """What can be switched. Closed set, in the order of the names."""

    ADAPTIVE_LIMITS = "adaptive_limits"
    """The limit on streams in flight follows the load. All streams share it, so it has no canary."""
    COALESCING = "coalescing"
    """Tokens coalesce into larger chunks for a reader that is behind."""
    POOLING = "pooling"
    """Response messages are used again."""
    PREFIX_CACHE = "prefix_cache"
    """Prompts begin from the KV cache of earlier ones, and leave theirs."""
    SPECULATION = "speculation"
    """First tokens are sent before they are computed."""


class FeatureState(StrEnum):
    """Where a feature is between off and on."""

    OFF = "off"
    CANARY = "canary"
    ON = "on"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class FeatureOptions:
    """enabled: on for every stream. Otherwise for canary_percent of the streams, and those of the tenants."""

    enabled: bool
    canary_percent: float
    tenants: frozenset[str]

    @property
    def state(self) -> FeatureState:
        """Where the feature begins."""
        if self.enabled:
            return FeatureState.ON
        return FeatureState.CANARY if self.canary_percent or self.tenants else FeatureState.OFF


@dataclass(frozen=True, slots=True)
class StreamFeatures:
    """What holds for one stream from its beginning to its end. arm: CONTROL or CANARY."""

    arm: str
    on: frozenset[FeatureName]


ALL_ON = StreamFeatures(CONTROL, frozenset(FeatureName))


@dataclass(frozen=True, slots=True)
class FeatureSnapshot:
    """canary_percent: 0 outside CANARY. reason: why it last changed, at changed_s; empty before it did."""

    name: FeatureName
    state: FeatureState
    canary_percent: float
    tenants: frozenset[str]
    reason: str
    changed_s: float


class CanaryError(ValueError):
    """A canary that may not be. Nothing was changed. other: the feature whose canary runs, if that is why."""

    def __init__(self, message: str, other: FeatureName | None = None) -> None:
        super().__init__(message)
        self.other = other


class FeatureTable:
    """The state of every feature. Changes hold for streams that ask afterwards.

    One feature at most is in CANARY: with two, nobody could tell from an arm what made the difference. An
    arm follows from the feature and the stream's request id alone, so a stream that is resumed with its id,
    on this replica or another one, is in the arm that it was in. Times are of one clock, in seconds.
    """

    def __init__(self, options: Mapping[FeatureName, FeatureOptions], now_s: float) -> None:
        """Raises CanaryError for more than one canary, or one of a feature that has none."""
        self._features = {
            name: FeatureSnapshot(name, one.state, one.canary_percent, one.tenants, "", now_s)
            for name, one in sorted(options.items())
        }
        self.canary: FeatureName | None = None
        """The feature that is in CANARY."""
        for feature in self._features.values():
            if feature.state is FeatureState.CANARY:
                self._check_canary(feature.name)
                self.canary = feature.name
        self._settle()

    def of(self, request_id: str, tenant: str) -> StreamFeatures:
        """What holds for a stream that begins now."""
        if self.canary is None:
            return self._control
        feature = self._features[self.canary]
        if tenant in feature.tenants or _place(feature.name, request_id) < feature.canary_percent:
            return self._canary
        return self._control

    def promote(self, name: FeatureName, reason: str, now_s: float) -> None:
        """On for every stream."""
        self._change(name, FeatureState.ON, 0.0, reason, now_s)

    def roll_back(self, name: FeatureName, reason: str, now_s: float) -> None:
        """On for no stream."""
        self._change(name, FeatureState.ROLLED_BACK, 0.0, reason, now_s)

    def set_canary(self, name: FeatureName, percent: float, reason: str, now_s: float) -> None:
        """On for this share of the streams, and for its tenants. A higher share keeps who is in.

        Raises CanaryError while another feature is in CANARY, and for a feature that has no canary.
        """
        self._check_canary(name)
        self._change(name, FeatureState.CANARY, percent, reason, now_s)

    def snapshot(self) -> tuple[FeatureSnapshot, ...]:
        """Each feature, in the order of their names."""
        return tuple(self._features.values())

    def state(self, name: FeatureName) -> FeatureState:
        return self._features[name].state

    def _check_canary(self, name: FeatureName) -> None:
        if name is FeatureName.ADAPTIVE_LIMITS:
            raise CanaryError(f"{name} has no canary: all streams share one limit")
        if self.canary not in (None, name):
            text = f"{name} cannot be in canary while {self.canary} is: arms could not be told apart"
            raise CanaryError(text, self.canary)

    def _change(
        self, name: FeatureName, state: FeatureState, percent: float, reason: str, now_s: float
    ) -> None:
        tenants = self._features[name].tenants
        self._features[name] = FeatureSnapshot(name, state, percent, tenants, reason, now_s)
        if state is FeatureState.CANARY:
            self.canary = name
        elif self.canary is name:
            self.canary = None
        self._settle()

    def _settle(self) -> None:
        """What streams are given: made here, since every stream asks."""
        on = frozenset(name for name, one in self._features.items() if one.state is FeatureState.ON)
        self._control = StreamFeatures(CONTROL, on)
        self._canary = StreamFeatures(CANARY, on | {self.canary} if self.canary else on)


def _place(name: FeatureName, request_id: str) -> float:
    """Where a stream is in the canary of a feature, in percent: even in [0, 100), and always the same."""
    digest = blake2b(f"{name}:{request_id}".encode(), digest_size=6).digest()
    return 100 * int.from_bytes(digest, "big") / 2**48
