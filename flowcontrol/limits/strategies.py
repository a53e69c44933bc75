"""The strategies by name."""

from collections.abc import Callable, Mapping

from flowcontrol.limits.contract import LimitOptions, LimitStrategy, StrategyName
from flowcontrol.limits.fixed import FixedLimit
from flowcontrol.limits.gradient import GradientLimit
from flowcontrol.limits.pid import PidLimit
from flowcontrol.limits.threshold import ThresholdLimit

_MAKE: Mapping[StrategyName, Callable[[LimitOptions], LimitStrategy]] = {
    StrategyName.FIXED: lambda options: FixedLimit(),
    StrategyName.THRESHOLD: ThresholdLimit,
    StrategyName.PID: lambda options: PidLimit(),
    StrategyName.GRADIENT: lambda options: GradientLimit(),
}


def make_strategy(options: LimitOptions) -> LimitStrategy:
    """A new strategy of the kind that the options name, without any memory."""
    return _MAKE[options.strategy](options)
