"""Numbers as Grafana writes them, for the units that the dashboard uses."""

import math
from collections.abc import Callable

_KIB = 1024.0
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_MINUTE_S = 60.0
_LONG = ((1e9, "Bil"), (1e6, "Mil"), (1e3, "K"))
_SUFFIX = "suffix:"


def with_unit(value: float, unit: str, decimals: int | None = None) -> str:
    """A number with its unit. Raises KeyError for a unit that the dashboard does not use."""
    if not math.isfinite(value):
        return ""
    if unit.startswith(_SUFFIX):
        return f"{_number(value, decimals)} {unit.removeprefix(_SUFFIX).strip()}"
    return _UNITS[unit](value, decimals)


def _number(value: float, decimals: int | None) -> str:
    for size, name in _LONG:
        if abs(value) >= size * 10:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}" if decimals is None and abs(value) < 1000 else f"{value:.{decimals or 0}f}"


def _seconds(value: float, decimals: int | None) -> str:
    if value == 0:
        return "0 s"
    if abs(value) < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if abs(value) < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < _MINUTE_S else f"{value / _MINUTE_S:.3g} min"


def _bytes(value: float, decimals: int | None) -> str:
    power = min(len(_BYTES) - 1, int(math.log(abs(value), _KIB))) if abs(value) >= 1 else 0
    return f"{value / _KIB**power:.3g} {_BYTES[power]}"


def _percent(value: float, decimals: int | None) -> str:
    return f"{value * 100:.3g}%" if decimals is None else f"{value * 100:.{decimals}f}%"


def _duration(value: float, decimals: int | None) -> str:
    return f"{value:.0f} s" if value < _MINUTE_S else f"{value / _MINUTE_S:.0f} min"


_UNITS: dict[str, Callable[[float, int | None], str]] = {
    "short": _number,
    "s": _seconds,
    "bytes": _bytes,
    "percentunit": _percent,
    "reqps": lambda value, decimals: f"{_number(value, decimals)} req/s",
    "cps": lambda value, decimals: f"{_number(value, decimals)} c/s",
    "dtdurations": _duration,
}
