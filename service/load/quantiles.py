"""Summaries of samples."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEAST_FOR_P95 = 20
LEAST_FOR_P99 = 100
"""With fewer samples the quantile is no more than the largest one."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of so many samples, in their unit; None where there are too few."""

    samples: int
    p50: float | None
    p95: float | None
    p99: float | None


def quantiles(samples: Iterable[float]) -> Quantiles:
    """Each is a sample: the smallest one that so large a share does not exceed (nearest rank)."""
    ordered = sorted(samples)
    return Quantiles(
        len(ordered),
        _quantile(ordered, 50, least=1),
        _quantile(ordered, 95, least=LEAST_FOR_P95),
        _quantile(ordered, 99, least=LEAST_FOR_P99),
    )


def jain(amounts: Sequence[float]) -> float | None:
    """Jain's fairness index: 1 for equal amounts, 1/n when one has all; None when there is nothing.

    R. Jain, D. Chiu, W. Hawe, A quantitative measure of fairness, DEC TR-301, 1984.
    """
    squares = sum(amount * amount for amount in amounts)
    return sum(amounts) ** 2 / (len(amounts) * squares) if squares else None


def _quantile(ordered: Sequence[float], percent: int, *, least: int) -> float | None:
    if len(ordered) < least:
        return None
    return ordered[math.ceil(percent * len(ordered) / 100) - 1]
