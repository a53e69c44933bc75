"""What must hold between features: at most one of them is on for a canary arm."""

from collections.abc import Mapping
from typing import Any

from config.schema import FeatureSettings, FeaturesSettings

_NAMES = tuple(
    name for name, field in FeaturesSettings.model_fields.items() if field.annotation is FeatureSettings
)


def too_many_canaries(values: Mapping[str, Any], origin: Mapping[str, str], refused: set[str]) -> list[str]:
    """Return the problem with the keys that make more than one canary, and who set them; else nothing.

    refused: keys whose value is wrong in some source, of which nothing can be said.
    """
    usable = values.keys() - refused
    keys = [
        key
        for name in _NAMES
        if usable.issuperset(_keys(name)) and not values[f"features.{name}.enabled"]
        for key in _keys(name)[1:]
        if values[key]
    ]
    if len({key.split(".")[1] for key in keys}) < 2:
        return []
    named = ", ".join(f"{key} = {values[key]} ({origin[key]})" for key in keys)
    rule = "one feature at most is in canary, since arms could not be told apart"
    return [f"impossible combination: {named}; rule: {rule}"]


def _keys(name: str) -> list[str]:
    return [f"features.{name}.{option}" for option in ("enabled", "canary_percent", "tenants")]
