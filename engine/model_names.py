"""Names and aliases of models: each means one model."""

from collections.abc import Collection, Sequence

from engine.contract import EngineError
from flowcontrol.reasons import Reason

MAX_ALIAS_CHARACTERS = 128
MAX_ALIASES = 16


class ModelNames:
    """configured: aliases that stay when their model goes; a model need not be there."""

    def __init__(self, configured: Sequence[tuple[str, str]]) -> None:
        self._configured = dict(configured)
        self._aliases = dict(configured)

    def meant(self, name: str) -> str:
        """The model's own name for an alias, else the name itself."""
        return self._aliases.get(name, name)

    def aliases(self, name: str) -> tuple[str, ...]:
        return tuple(alias for alias, named in self._aliases.items() if named == name)

    def check(self, name: str, aliases: Sequence[str], others: Collection[str]) -> None:
        """Raises EngineError when a model cannot have this name or these aliases. others: names in use."""
        if name in others:
            text = (
                f'there is another model "{name}"; unload it, or load this one from a folder of another name'
            )
            raise _taken("source", text)
        if self.meant(name) != name:
            raise _taken("source", f'"{name}" is an alias of "{self.meant(name)}"')
        if len(aliases) > MAX_ALIASES:
            raise invalid("aliases", f"got {len(aliases)}; allowed: at most {MAX_ALIASES}")
        for alias in aliases:
            if not (
                0 < len(alias) <= MAX_ALIAS_CHARACTERS and alias.isprintable() and alias == alias.strip()
            ):
                text = f"allowed: 1 to {MAX_ALIAS_CHARACTERS} printable characters, no space at the ends"
                raise invalid("aliases", text)
            if alias in others:
                raise _taken("aliases", f'"{alias}" is the name of another model')
            if self._aliases.get(alias, name) != name:
                raise _taken("aliases", f'"{alias}" is an alias of "{self.meant(alias)}"')

    def add(self, name: str, aliases: Sequence[str]) -> None:
        """Aliases that `check` has passed."""
        self._aliases |= {alias: name for alias in aliases if alias != name}

    def forget(self, name: str) -> None:
        """The model is gone, and with it the aliases that it was loaded with."""
        for alias in self.aliases(name):
            if alias not in self._configured:
                del self._aliases[alias]


def invalid(field: str, message: str) -> EngineError:
    return EngineError(Reason.INVALID_REQUEST, f"{field}: {message}", field=field)


def _taken(field: str, message: str) -> EngineError:
    return EngineError(Reason.MODEL_NAME_TAKEN, f"{field}: {message}", field=field)
