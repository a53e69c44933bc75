"""Layering: the sources in their order, what each option ends up as, and who set it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from config.errors import ConfigError
from config.options import OPTIONS, show
from config.schema import RULES, Settings
from config.sources import ENVIRONMENT_VARIABLE, Layer, environ_layer, file_layer, flags_layer

ENVIRONMENTS = ("production", "development", "test")
"""The overlays in ``config/environments``. The first is used when none is chosen: it is the safe one."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The options in force, the source of each by its dotted key, and the overlay that was used."""

    settings: Settings
    origin: Mapping[str, str]
    environment: str


def load(
    environment: str | None, file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> Loaded:
    """Read every source and return the options.

    The order, lowest first: ``config/runtime.yaml``, the overlay of the environment, ``file``, the variables
    of ``environ`` that begin with ``PENSTOCK_``, ``flags`` (nested by section; None is a flag not given).
    ``environment`` names the overlay; None leaves it to ``PENSTOCK_ENV``, then to ``production``.

    Raises ConfigError with every problem of every source, also where a higher source sets the same key.
    """
    name, problems = _choose(environment, environ)
    layers = [_packaged("runtime.yaml")]
    if not problems:
        layers.append(_packaged(f"environments/{name}.yaml"))
    if file is not None:
        layers.append(file_layer(file, str(file)))
    layers += [environ_layer(environ), flags_layer(flags)]
    values, origin = merge(layers, problems)
    return Loaded(Settings(**_nest(values)), origin, name)


def merge(layers: Iterable[Layer], problems: Iterable[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Lay the layers over each other, lowest first; return values and origins by dotted key.

    Raises ConfigError with ``problems``, those of the layers, each missing option and each broken rule.
    """
    found = list(problems)
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    refused: set[str] = set()
    for layer in layers:
        values |= layer.values
        origin |= layer.origin
        found += layer.problems
        refused |= layer.refused
    found += [f"config/runtime.yaml: {key}: missing" for key in OPTIONS if key not in values.keys() | refused]
    found += _broken_rules(values, origin, refused)
    if found:
        raise ConfigError(found)
    return {key: values[key] for key in OPTIONS}, {key: origin[key] for key in OPTIONS}


def _broken_rules(values: Mapping[str, int], origin: Mapping[str, str], refused: set[str]) -> list[str]:
    # A refused value leaves one of a lower source behind: nothing can be said about that one.
    usable = values.keys() - refused
    return [
        f"impossible combination: {rule.left} = {values[rule.left]} ({origin[rule.left]}), "
        f"{rule.right} = {values[rule.right]} ({origin[rule.right]}); "
        f"rule: {rule.left} {rule.relation} {rule.right}"
        for rule in RULES
        if {rule.left, rule.right} <= usable and not rule.holds(values[rule.left], values[rule.right])
    ]


def _choose(environment: str | None, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    named = [
        (f"environment {name}", text)
        for name, text in environ.items()
        if name.upper() == ENVIRONMENT_VARIABLE
    ]
    if environment is not None:
        named = [("--env", environment)]
    where, name = named[0] if named else ("", ENVIRONMENTS[0])
    if name in ENVIRONMENTS:
        return name, []
    return name, [f"{where}: got {show(name)}; allowed: one of {', '.join(ENVIRONMENTS)}"]


def _packaged(path: str) -> Layer:
    return file_layer(files("config").joinpath(path), f"config/{path}")


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return nested
