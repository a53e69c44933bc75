"""Names and numbers as `penstock top` and `penstock status` write them."""

import math
from typing import Any

from service.terminal import count

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean(text: str) -> str:
    """Text from outside, fit for one line of a terminal: without line breaks and escape sequences."""
    return "".join(letter if letter.isprintable() else REPLACEMENT for letter in text)


def enum_name(enum: Any, number: int, prefix: str) -> str:
    """The name of a protobuf enum's value in lower case; "unknown" for one that this version lacks."""
    if number not in enum.values():
        return "unknown"
    name: str = enum.Name(number)
    return name.removeprefix(prefix).lower().replace("_", " ")


def finite(value: float) -> float | None:
    """None for what is not a number to be drawn."""
    return value if math.isfinite(value) else None


def number(value: float | None) -> str:
    """Such as "0.4", "31", "1,031" or "1.2 M"; "-" for None."""
    if value is None or not math.isfinite(value):
        return "-"
    if abs(value) >= 1e5:
        return count(round(value))
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def milliseconds(value_ms: float | None) -> str:
    """A time from milliseconds: "8.3 ms", "210 ms", "6.2 s", "12 min"; "-" for None."""
    if value_ms is None or not math.isfinite(value_ms):
        return "-"
    if value_ms < 10:
        return f"{value_ms:.1f} ms" if value_ms else "0 ms"
    if value_ms < 1000:
        return f"{value_ms:.0f} ms"
    return seconds(value_ms / 1e3)


def seconds(value_s: float) -> str:
    """A time in one unit: "6.2 s", "74 s", "12 min", "5.1 h", "3.0 d"; "-" for what is no time."""
    if not math.isfinite(value_s):
        return "-"
    if value_s < 100:
        return f"{value_s:.1f} s" if value_s < 10 else f"{value_s:.0f} s"
    for unit, unit_s in (("min", 60), ("h", 3600)):
        if value_s < 100 * unit_s:
            return f"{value_s / unit_s:.0f} {unit}" if unit == "min" else f"{value_s / unit_s:.1f} {unit}"
    return f"{value_s / 86_400:.1f} d"


def share(value: float | None) -> str:
    """A share 0..1 as percent: "0.25 %", "12 %"; "-" for None."""
    if value is None or not math.isfinite(value):
        return "-"
    percent = value * 100
    return f"{percent:.0f} %" if percent >= 10 or percent == int(percent) else f"{percent:.2g} %"
