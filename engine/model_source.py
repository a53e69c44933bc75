"""Where a model comes from: the embedded one, a directory, or a hub name."""

from pathlib import Path

EMBEDDED = "embedded"
EMBEDDED_NAME = "penstock-tiny"
_EMBEDDED_DIRECTORY = Path(__file__).parent / "embedded"


class NoSuchModelError(ValueError):
    """The name is neither a directory with a model nor shaped like a hub name."""


def resolve(source: str) -> tuple[str, str]:
    """(what mlx_lm.load takes, the name that callers use).

    The name is "penstock-tiny" for the embedded model, the last folder's name for a directory, and
    the hub name itself for a hub name. Raises NoSuchModelError.
    """
    if source == EMBEDDED:
        return str(_EMBEDDED_DIRECTORY), EMBEDDED_NAME
    directory = Path(source).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise NoSuchModelError(f"{source}: the directory has no config.json, so it holds no model")
        return str(directory), directory.resolve().name
    if directory.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise NoSuchModelError(
            f'{source}: no such directory; allowed: "{EMBEDDED}", a model directory, or a hub name ORG/NAME'
        )
    return source, source
