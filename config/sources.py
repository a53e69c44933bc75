"""The sources of values: YAML files, the environment and the command line. Each gives one ``Layer``.

The sources of pydantic-settings are not used for reading. Its YAML source keeps the last of two equal keys
and reads a missing file as an empty one; its environment source reads ``os.environ`` only, skips names that
it does not know and turns ``port=true`` into 1; and none says which source set a value.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from config.errors import ConfigError
from config.masking import MASK
from config.options import OPTIONS, SECRET_NAMES, SECTIONS, nearest, quoted, show

PREFIX = "PENSTOCK_"
ENVIRONMENT_VARIABLE = "PENSTOCK_ENV"
PROFILE_VARIABLE = "PENSTOCK_PROFILE"
FOREIGN_VARIABLES = frozenset({ENVIRONMENT_VARIABLE, PROFILE_VARIABLE, "PENSTOCK_TARGET"})
"""Names with our prefix that are not options; other parts read them."""

# Kubernetes puts these into the pods of a namespace that has a Service named penstock.
_SERVICE_LINK = re.compile(
    r"PENSTOCK_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

SHORT_VARIABLES = {
    "STREAM_REQUEST_CHUNK_SIZE": "server.request_chunk_bytes",
    "STREAM_RESPONSE_CHUNK_SIZE": "server.response_chunk_bytes",
}
"""Names without our prefix that set an option; the client reads the first one too."""

VARIABLES = {PREFIX + key.upper().replace(".", "__"): key for key in OPTIONS}
"""The key of every environment variable with our prefix that sets an option."""

_NAMED_BY_YAML = re.compile(r"\b(alias|anchor|tag|handle) ['\"].*")

_LAST_PARTS = Counter(key.rpartition(".")[2] for key in OPTIONS)


@dataclass(slots=True)
class Layer:
    """What one source says. ``refused`` holds the keys of ``OPTIONS`` whose value it got wrong."""

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    def take(self, key: str, value: object, read: Callable[[Any], Any], origin: str, where: str) -> None:
        """Store ``read(value)`` for an option, or the problem that ``read`` has with it."""
        try:
            self.values[key] = read(value)
            self.origin[key] = origin
        except ValidationError:
            self.refused.add(key)
            option = OPTIONS[key]
            self.problems.append(f"{where}: {key}: got {option.refused(value)}; allowed: {option.allowed}")


def file_layer(path: Path | Traversable, name: str) -> Layer:
    """Read a YAML file that holds some of the options. ``name`` stands for it in origins and messages."""
    layer = Layer()
    try:
        nested = read_mapping(path, name, "a mapping of sections")
    except ConfigError as error:
        layer.problems.extend(error.problems)
    else:
        _take_section(layer, nested, "", lambda key: name)
    return layer


def flags_layer(flags: Mapping[str, Any]) -> Layer:
    """Take the nested mapping of the command line; None is a flag that was not given."""
    layer = Layer()
    _take_section(layer, _given(flags), "", flag_name)
    return layer


def flag_name(key: str) -> str:
    """Return the command line's flag for a key: it bears the last part, ``--port`` for ``server.port``.

    Where several options share the last part, it bears the last two.
    """
    *sections, name = key.split(".")
    if _LAST_PARTS[name] > 1:
        name = f"{sections[-1]}.{name}"
    return "--" + name.replace("_", "-").replace(".", "-")


def environ_layer(environ: Mapping[str, str]) -> Layer:
    """Take the variables that begin with ``PENSTOCK_`` and the ``SHORT_VARIABLES``, in upper or lower case.

    Where both name one option, the one with the prefix wins.
    """
    layer = Layer()
    spelled: dict[str, str] = {}
    # Short names first, so that those with the prefix are laid over them.
    for name, text in sorted(environ.items(), key=lambda item: item[0].upper().startswith(PREFIX)):
        variable = name.upper()
        if not variable.startswith(PREFIX) and variable not in SHORT_VARIABLES:
            continue
        where = f"environment {name}"
        if variable in spelled:
            layer.problems.append(f"{where}: the same variable as {spelled[variable]}; give one of them")
        elif key := (SHORT_VARIABLES | VARIABLES).get(variable):
            layer.take(key, text, OPTIONS[key].parse, name, where)
        elif variable not in FOREIGN_VARIABLES and not _SERVICE_LINK.fullmatch(variable):
            layer.problems.append(f"{where}: unknown variable; {_nearest_variable(variable)}")
        spelled[variable] = name
    return layer


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _given(value) if isinstance(value, Mapping) else value
        for name, value in flags.items()
        if value is not None
    }


def _nearest_variable(variable: str) -> str:
    # The cut-off of 0 always gives a name, as the list of all of them is too long for a line.
    return f"nearest known variable: {get_close_matches(variable, VARIABLES, n=1, cutoff=0)[0]}"


def _take_section(
    layer: Layer, nested: Mapping[Any, Any], section: str, origin: Callable[[str], str]
) -> None:
    for name, value in nested.items():
        word = quoted(name)
        key = f"{section}.{word}" if section else word
        where = origin(key)
        if name not in SECTIONS[section]:
            layer.problems.append(f"{where}: {key}: unknown key; {nearest(name, section)}")
        elif key in OPTIONS:
            layer.take(key, value, OPTIONS[key].check, where, where)
        elif isinstance(value, Mapping):
            _take_section(layer, value, key, origin)
        elif value is not None:  # An empty section sets nothing.
            allowed = f"a mapping with some of the keys {', '.join(SECTIONS[key])}"
            layer.problems.append(f"{where}: {key}: got {show(value)}; allowed: {allowed}")


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses equal keys and says where a value cannot be built."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        # "!!set x" comes here with a scalar node, which the base class refuses.
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"duplicate key {key.value}", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # PyYAML lets these through: for a date that does not exist, or "!!timestamp x".
        except (ValueError, LookupError, AttributeError) as error:
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error


def read_mapping(path: Path | Traversable, name: str, allowed: str) -> Mapping[Any, Any]:
    """Return the content of a YAML file, empty for an empty one.

    Raises ConfigError when it cannot be read, is not YAML, has equal keys, or is not what is ``allowed``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{name}: file not found"]) from None
    except OSError as error:
        raise ConfigError([f"{name}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{name}: not UTF-8 text"]) from error
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{name}: line {line}: not valid YAML: {_problem(error, text)}"]) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError([f"{name}: line {line}: not valid YAML: {error.reason}"]) from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError([f"{name}: got {show(content)}; allowed: {allowed}"])
    return content


def _problem(error: yaml.MarkedYAMLError, text: str) -> str:
    """What is wrong. PyYAML names what it takes for a tag or an alias: it may be an unquoted secret."""
    problem = error.problem or ""
    if any(name in text for name in SECRET_NAMES):
        return _NAMED_BY_YAML.sub(rf"\1 {MASK}", problem)
    return problem
