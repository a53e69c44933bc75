"""When a breach has lasted long enough that somebody must be told, and when its end must be told."""

from dataclasses import dataclass
from enum import Enum


class News(Enum):
    """What must be told of a breach."""

    BREACH = "breach"
    """It has lasted for the whole time."""
    BREACH_ENDED = "breach_ended"
    """It is over, and had been told."""


@dataclass(frozen=True, slots=True)
class SustainedBreach:
    """One thing to tell. lasted_s: from the first look that saw the breach to this one."""

    name: str
    news: News
    lasted_s: float


@dataclass(slots=True)
class _Breach:
    since_s: float
    told: bool = False


class SustainedBreaches:
    """Breaches by name, each told once when it has lasted and once more when it is over.

    A look that sees no breach begins the time anew. While nobody looks, a breach counts as lasting. Only
    names in breach are kept.
    """

    __slots__ = ("_breaches", "_sustained_s")

    def __init__(self, sustained_s: float) -> None:
        """sustained_s: how long a breach must last; 0 tells it at the first look. ValueError if negative."""
        if not sustained_s >= 0:
            raise ValueError(f"sustained_s must not be negative, got {sustained_s}")
        self._sustained_s = sustained_s
        self._breaches: dict[str, _Breach] = {}

    def look(self, name: str, *, breached: bool, now_s: float) -> SustainedBreach | None:
        """What must be told after a look that saw a breach or none; None for nothing."""
        if not breached:
            ended = self._breaches.pop(name, None)
            if ended is None or not ended.told:
                return None
            return SustainedBreach(name, News.BREACH_ENDED, now_s - ended.since_s)
        breach = self._breaches.setdefault(name, _Breach(now_s))
        lasted_s = now_s - breach.since_s
        if breach.told or lasted_s < self._sustained_s:
            return None
        breach.told = True
        return SustainedBreach(name, News.BREACH, lasted_s)
