"""Tables of instruments: what is measured, and from which snapshot it is read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

Taken = TypeVar("Taken")
Measured = tuple[float, Mapping[str, str]]
"""A value and its labels."""


class Kind(Enum):
    COUNTER = "counter"
    """Never falls, but to the beginning."""
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Instrument(Generic[Taken]):
    """One metric. name: OpenTelemetry's. Prometheus has _ for its dots, then the unit; _total for counters.

    read: the values, from what its table took. Called in a thread of the exporter.
    """

    kind: Kind
    name: str
    unit: str
    description: str
    read: Callable[[Taken], Iterable[Measured]]


@dataclass(frozen=True, slots=True)
class Table(Generic[Taken]):
    """take: a frozen snapshot for all instruments of the table; called on the event loop."""

    take: Callable[[], Taken]
    instruments: Sequence[Instrument[Taken]]


AnyTable = Table[Any]


def one(value: float, **labels: str) -> Iterable[Measured]:
    """A single value."""
    return ((value, labels),)


def by_label(label: str, values: Mapping[str, float]) -> Iterable[Measured]:
    """A value for each value of one label."""
    return [(value, {label: name}) for name, value in values.items()]
