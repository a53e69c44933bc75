"""The options in force, for ``penstock config show``."""

from typing import Any

from config.loader import Loaded
from config.options import OPTIONS


def rows(loaded: Loaded) -> list[tuple[str, Any, str]]:
    """Return ``(key, value, origin)`` for every option, in the order of the schema."""
    return [(key, _value(loaded, key), loaded.origin[key]) for key in OPTIONS]


def as_dict(loaded: Loaded) -> dict[str, Any]:
    """Return the environment and every option with its value and origin, ready for JSON."""
    options = {key: {"value": value, "origin": origin} for key, value, origin in rows(loaded)}
    return {"environment": loaded.environment, "options": options}


def _value(loaded: Loaded, key: str) -> Any:
    value: Any = loaded.settings
    for name in key.split("."):
        value = getattr(value, name)
    return value
