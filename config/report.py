"""The options in force, for ``penstock config show``; secrets are masked."""

from dataclasses import dataclass
from typing import Any

from config.loader import Loaded, defaults
from config.options import OPTIONS


@dataclass(frozen=True, slots=True)
class Change:
    """An option whose value is not that of ``config/runtime.yaml``."""

    key: str
    value: Any
    default: Any
    origin: str


def rows(loaded: Loaded) -> list[tuple[str, Any, str]]:
    """Return ``(key, value, origin)`` for every option, in the order of the schema."""
    return [(key, option.shown(_value(loaded, key)), loaded.origin[key]) for key, option in OPTIONS.items()]


def changes(loaded: Loaded) -> list[Change]:
    """Return the options that differ from their defaults, in the order of the schema.

    A source that sets an option to its default changes nothing.
    """
    usual = defaults()
    return [
        Change(key, value, OPTIONS[key].shown(usual[key]), origin)
        for key, value, origin in rows(loaded)
        if _value(loaded, key) != usual[key]
    ]


def as_dict(loaded: Loaded, *, changed: bool = False) -> dict[str, Any]:
    """Return environment, profile and every option with its value and origin, ready for JSON.

    changed: only the options that differ from their defaults, each with its default.
    """
    options: dict[str, dict[str, Any]]
    if changed:
        options = {
            change.key: {"value": change.value, "default": change.default, "origin": change.origin}
            for change in changes(loaded)
        }
    else:
        options = {key: {"value": value, "origin": origin} for key, value, origin in rows(loaded)}
    return {"environment": loaded.environment, "profile": loaded.profile, "options": options}


def _value(loaded: Loaded, key: str) -> Any:
    value: Any = loaded.settings
    for name in key.split("."):
        value = getattr(value, name)
    return value
