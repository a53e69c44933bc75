"""The file with limits per tenant, named by ``admission.tenants.file``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.errors import ConfigError
from config.options import OPTIONS, nearest_of, quoted, show
from config.schema import TenantSettings
from config.sources import read_mapping

MAX_NAME_CHARACTERS = 128
_KEYS = tuple(TenantSettings.model_fields)
_NAMES = f"a text of 1 to {MAX_NAME_CHARACTERS} characters"


def load_tenants(path: Path, defaults: TenantSettings) -> Mapping[str, TenantSettings]:
    """Read the limits of each tenant that the file names.

    The file is a mapping with the one key ``tenants``, which holds a mapping from name to limits. A limit
    that is missing there is the one of ``defaults``, in general ``settings.admission.tenants``.

    Raises ConfigError with every problem of the file; one that cannot be read or is not YAML, or that
    names a tenant twice, has that problem alone.
    """
    content = read_mapping(path, str(path), "a mapping with the key tenants")
    problems = [
        f"{path}: {quoted(key)}: unknown key; nearest known key: tenants"
        for key in content
        if key != "tenants"
    ]
    named = content.get("tenants")
    tenants: dict[str, TenantSettings] = {}
    if isinstance(named, Mapping):
        usual = {key: getattr(defaults, key) for key in _KEYS}
        for name, limits in named.items():
            where = f"{path}: tenants.{quoted(name)}"
            values, wrong = _read_limits(limits, where)
            problems += [*_wrong_name(name, where), *wrong]
            tenants[str(name)] = TenantSettings(**(usual | values))
    elif named is not None:  # An empty section names nobody.
        problems.append(f"{path}: tenants: got {show(named)}; allowed: a mapping from names to limits")
    if problems:
        raise ConfigError(problems)
    return tenants


def _wrong_name(name: object, where: str) -> Iterator[str]:
    if not isinstance(name, str):
        yield f"{where}: got the name {show(name)}; allowed: {_NAMES}"
    elif not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        yield f"{where}: got a name of {len(name)} characters; allowed: {_NAMES}"


def _read_limits(limits: object, where: str) -> tuple[dict[str, Any], list[str]]:
    """Return the limits of one tenant that are right, and the problems of the others."""
    if limits is None:
        return {}, []
    if not isinstance(limits, Mapping):
        allowed = f"a mapping with some of the keys {', '.join(_KEYS)}"
        return {}, [f"{where}: got {show(limits)}; allowed: {allowed}"]
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in limits.items():
        if key not in _KEYS:
            problems.append(f"{where}.{quoted(key)}: unknown key; {nearest_of(key, _KEYS)}")
            continue
        option = OPTIONS[f"admission.tenants.{key}"]
        try:
            values[key] = option.check(value)
        except ValidationError:
            problems.append(f"{where}.{key}: got {option.refused(value)}; allowed: {option.allowed}")
    return values, problems
