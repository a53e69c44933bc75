"""A PID controller in velocity form on the relative distance of load from target."""

from flowcontrol.limits.contract import Window

KP = 0.25
"""Per unit of change in error: a jump of load counts more in the interval in which it comes."""
KI = 0.4
"""Per unit of error and interval: half the load of the target opens the limit by nearly a fifth."""
KD = 0.1
"""Per unit of change in the trend of the error; small, because windows are small and noisy."""
FILTER = 0.5
"""Weight of the newest error in what the derivative sees: noise of single windows is halved."""
DEAD_BAND = 0.05
"""Errors up to this are none. Narrow: how far off load must be to count is the controller's to judge."""
MAX_ERROR = 1.0
"""Twice the target is as bad as any worse: one absurd sample does not decide the next intervals too."""

LEAST_FACTOR = 0.1
"""A proposal is above 0 whatever the gains; the bound on a step is the controller's, and much narrower."""


class PidLimit:
    """Changes the limit by limit x (kp (e - e1) + ki e + kd (f - 2 f1 + f2)), error e = 1 - load.

    e1 is the error of the interval before; f is e after a first-order filter. Scaled by the limit, the
    gains have no unit and hold for a limit of 4 and of 400 alike.

    There is no integral to wind up: the limit in force is the integrator, and its owner clamps it. A
    proposal that was cut off or refused leaves nothing behind. The velocity form is that of Astrom and
    Hagglund, PID Controllers.
    """

    def __init__(self) -> None:
        self._error = 0.0
        self._filtered = 0.0
        self._filtered_before = 0.0

    def propose(self, window: Window) -> float:
        assert window.load is not None
        error = _error(window.load)
        filtered = self._filtered + FILTER * (error - self._filtered)
        trend = filtered - 2 * self._filtered + self._filtered_before
        change = KP * (error - self._error) + KI * error + KD * trend
        self._error = error
        self._filtered, self._filtered_before = filtered, self._filtered
        # An error that shrinks must not turn the limit round while load is still on the wrong side.
        if error > 0:
            change = max(change, 0.0)
        elif error < 0:
            change = min(change, 0.0)
        else:
            change = 0.0
        # Above 0 for any gains.
        return window.limit * max(LEAST_FACTOR, 1 + change)


def _error(load: float) -> float:
    """1 - load, counted from the edge of the dead band, so that leaving it is no jump."""
    error = max(-MAX_ERROR, min(1 - load, MAX_ERROR))
    if abs(error) <= DEAD_BAND:
        return 0.0
    return error - DEAD_BAND if error > 0 else error + DEAD_BAND
