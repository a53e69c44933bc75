"""The schema as a flat table: one entry for each option, keyed ``section.name``."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

from config.schema import Settings


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its dotted key, what is allowed in words, and the check of a value."""

    key: str
    allowed: str
    adapter: TypeAdapter[Any]

    def check(self, value: object) -> Any:
        """Return a typed value unchanged; raise pydantic's ValidationError when it is not allowed."""
        return self.adapter.validate_python(value)

    def parse(self, text: str) -> Any:
        """Return the value that a text stands for; raise pydantic's ValidationError when there is none."""
        return self.adapter.validate_strings(text)


def _allowed(field: FieldInfo, adapter: TypeAdapter[Any]) -> str:
    if field.description is not None:
        return field.description
    schema = adapter.json_schema()
    if schema["type"] == "boolean":
        return "true or false"
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    return f"an integer from {schema['minimum']} to {schema['maximum']}"


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{prefix}{name}.")
        else:
            form: Any = Annotated[kind, field]
            adapter: TypeAdapter[Any] = TypeAdapter(form, config=ConfigDict(strict=True))
            yield Option(prefix + name, _allowed(field, adapter), adapter)


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

_KEY_OF_NAME = {key.rpartition(".")[2]: key for key in [*SECTIONS, *OPTIONS] if key}


def nearest(name: object, section: str) -> str:
    """Say which known key an unknown ``name`` in ``section`` may stand for, here or in another section."""
    here = get_close_matches(str(name), SECTIONS[section], n=1)
    elsewhere = [_KEY_OF_NAME[match] for match in get_close_matches(str(name), _KEY_OF_NAME, n=1)]
    if found := here + elsewhere:
        return f"nearest known key: {found[0]}"
    return f"known keys: {', '.join(SECTIONS[section])}"


def show(value: object) -> str:
    """Return a value as one line of an error message."""
    if value is None or isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | set):
        return "a list"
    return str(value)
