"""Layering: the sources in their order, what each option ends up as, and who set it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from config.errors import ConfigError
from config.feature_rules import too_many_canaries
from config.options import OPTIONS, show
from config.rules import RULES
from config.schema import Settings
from config.sources import (
    ENVIRONMENT_VARIABLE,
    PROFILE_VARIABLE,
    Layer,
    environ_layer,
    file_layer,
    flags_layer,
)

ENVIRONMENTS = ("production", "development", "test")
"""The overlays in ``config/environments``. The first is used when none is chosen: it is the safe one."""

PROFILES = ("balanced", "low-latency", "high-throughput", "memory-constrained", "multi-tenant")
"""The presets in ``config/profiles``. The first is used when none is chosen: it changes nothing."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The options in force, the source of each by its dotted key, the overlay and the profile used."""

    settings: Settings
    origin: Mapping[str, str]
    environment: str
    profile: str


def load(
    environment: str | None,
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
    *,
    profile: str | None = None,
) -> Loaded:
    """Read every source and return the options.

    The order, lowest first: ``config/runtime.yaml``, the profile, the overlay of the environment, ``file``,
    the variables of ``environ`` that begin with ``PENSTOCK_``, ``flags`` (nested by section; None is a flag
    not given). ``environment`` names the overlay; None leaves it to ``PENSTOCK_ENV``, then to ``production``.
    ``profile`` likewise: then to ``PENSTOCK_PROFILE``, then to ``balanced``.

    Raises ConfigError with every problem of every source, also where a higher source sets the same key.
    """
    overlay = _choose("--env", environment, ENVIRONMENT_VARIABLE, environ, ENVIRONMENTS)
    preset = _choose("--profile", profile, PROFILE_VARIABLE, environ, PROFILES)
    problems = [choice.problem for choice in (overlay, preset) if choice.problem]
    layers = stack(
        None if preset.problem else preset.name,
        None if overlay.problem else overlay.name,
        file,
        environ,
        flags,
    )
    values, origin = merge(layers, problems)
    return Loaded(Settings(**_nest(values)), origin, overlay.name, preset.name)


def stack(
    profile: str | None,
    environment: str | None,
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
) -> list[Layer]:
    """Return the layers of all sources, lowest first; None leaves that one out."""
    layers = [_packaged("runtime.yaml")]
    if profile is not None:
        layers.append(profile_layer(profile))
    if environment is not None:
        layers.append(_packaged(f"environments/{environment}.yaml"))
    if file is not None:
        layers.append(file_layer(file, str(file)))
    return [*layers, environ_layer(environ), flags_layer(flags)]


def defaults() -> Mapping[str, Any]:
    """Return the values of ``config/runtime.yaml`` by dotted key."""
    return merge([_packaged("runtime.yaml")])[0]


def profile_layer(name: str) -> Layer:
    """Return what the profile sets; ``name`` is one of ``PROFILES``."""
    layer = _packaged(f"profiles/{name}.yaml")
    layer.origin = dict.fromkeys(layer.origin, f"profile {name}")
    return layer


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
    found += too_many_canaries(values, origin, refused)
    if found:
        raise ConfigError(found)
    return {key: values[key] for key in OPTIONS}, {key: origin[key] for key in OPTIONS}


def _broken_rules(values: Mapping[str, Any], origin: Mapping[str, str], refused: set[str]) -> list[str]:
    # A refused value leaves one of a lower source behind: nothing can be said about that one.
    usable = values.keys() - refused
    return [
        "impossible combination: "
        + ", ".join(f"{key} = {OPTIONS[key].shown(values[key])} ({origin[key]})" for key in rule.keys)
        + f"; rule: {rule}"
        for rule in RULES
        if usable.issuperset(rule.keys) and not rule.holds(values)
    ]


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was chosen, and what is wrong with it, else the empty text."""

    name: str
    problem: str


def _choose(
    flag: str, given: str | None, variable: str, environ: Mapping[str, str], known: tuple[str, ...]
) -> _Choice:
    named = [(f"environment {key}", text) for key, text in environ.items() if key.upper() == variable]
    if given is not None:
        named = [(flag, given)]
    where, name = named[0] if named else ("", known[0])
    problem = "" if name in known else f"{where}: got {show(name)}; allowed: one of {', '.join(known)}"
    return _Choice(name, problem)


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
