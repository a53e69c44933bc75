"""The schema as a flat table: one entry for each option, keyed ``section.name``."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

from config.masking import MASK, Secrecy, masked, secrecy_of
from config.schema import Settings


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its dotted key, what is allowed in words, what is secret in it, the check of a value."""

    key: str
    allowed: str
    secrecy: Secrecy | None
    adapter: TypeAdapter[Any]

    def check(self, value: object) -> Any:
        """Return a typed value unchanged; raise pydantic's ValidationError when it is not allowed."""
        return self.adapter.validate_python(value)

    def parse(self, text: str) -> Any:
        """Return the value that a text stands for; raise pydantic's ValidationError when there is none."""
        return self.adapter.validate_strings(text)

    def shown(self, value: Any) -> Any:
        """Return an allowed value as anyone may see it: masked if it is a secret."""
        return value if self.secrecy is None else masked(self.secrecy, value)

    def refused(self, value: object) -> str:
        """Return a value that is not allowed as one line of an error message; a secret is masked."""
        if self.secrecy is None or value is None or value == "" or isinstance(value, Mapping | list | set):
            return show(value)
        return MASK if isinstance(value, str) else f"{MASK} ({type(value).__name__})"


def _allowed(field: FieldInfo, adapter: TypeAdapter[Any]) -> str:
    if field.description is not None:
        return field.description
    schema = adapter.json_schema()
    if schema["type"] == "boolean":
        return "true or false"
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    kind = "a number" if schema["type"] == "number" else "an integer"
    return f"{kind} from {_plain(schema['minimum'])} to {_plain(schema['maximum'])}"


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{prefix}{name}.")
        else:
            form: Any = Annotated[kind, field]
            adapter: TypeAdapter[Any] = TypeAdapter(form, config=ConfigDict(strict=True))
            yield Option(prefix + name, _allowed(field, adapter), secrecy_of(field.metadata), adapter)


def _sections() -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    for key in OPTIONS:
        parts = key.split(".")
        for depth, name in enumerate(parts):
            names = sections.setdefault(".".join(parts[:depth]), [])
            if name not in names:
                names.append(name)
    return sections


OPTIONS: Mapping[str, Option] = {option.key: option for option in _walk(Settings, "")}
"""Every option, in the order of the schema."""

SECTIONS: Mapping[str, list[str]] = _sections()
"""The names directly inside each section, by the section's dotted key; the root is ``""``."""

SECRET_NAMES = frozenset(key.rpartition(".")[2] for key, option in OPTIONS.items() if option.secrecy)
"""The last parts of the keys of secrets."""

_KEY_OF_NAME = {key.rpartition(".")[2]: key for key in [*SECTIONS, *OPTIONS] if key}


def nearest(name: object, section: str) -> str:
    """Say which known key an unknown ``name`` in ``section`` may stand for, here or in another section."""
    return nearest_of(name, SECTIONS[section], _KEY_OF_NAME)


def nearest_of(name: object, known: Collection[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """Say which of the ``known`` keys an unknown ``name`` may stand for, else which key of ``elsewhere``."""
    found = get_close_matches(str(name), known, n=1)
    if elsewhere and not found:
        found = [elsewhere[match] for match in get_close_matches(str(name), elsewhere, n=1)]
    return f"nearest known key: {found[0]}" if found else f"known keys: {', '.join(known)}"


def quoted(name: object) -> str:
    """Return a name as it stands in a dotted key.

    One that is no plain word is quoted, so that a dot or a line break in it is not taken for ours.
    """
    return name if isinstance(name, str) and name.isidentifier() else json.dumps(str(name))


def show(value: object) -> str:
    """Return a value as one line of an error message."""
    if value is None or isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | set):
        return "a list"
    return str(value)
