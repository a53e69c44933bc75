"""Values that not everyone who sees the configuration may know.

The schema declares them (``Annotated[str, Secrecy.TEXT]``); ``config show``, the messages of
``ConfigError`` and the ``repr`` of the settings mask them.
"""

from collections.abc import Iterable
from enum import Enum
from urllib.parse import urlsplit

MASK = "********"


class Secrecy(Enum):
    """How much of a value is a secret."""

    TEXT = "text"
    """All of it: a key or a password."""
    ADDRESS = "address"
    """Of an http address all but scheme, host and port: user, password, path and query may be secrets."""


def secrecy_of(metadata: Iterable[object]) -> Secrecy | None:
    """Return what a field's metadata declares; None for a value that everyone may see."""
    return next((item for item in metadata if isinstance(item, Secrecy)), None)


def masked(secrecy: Secrecy, value: object) -> str:
    """Return a value for display, with ``MASK`` for what is a secret; an empty text stays: nothing is set."""
    text = str(value)
    if not text:
        return ""
    return MASK if secrecy is Secrecy.TEXT else _masked_address(text)


def check_address(text: str) -> str:
    """Return the address, which may be empty; raise ValueError when it has no host or a port that is none."""
    if text and not (urlsplit(text).hostname and urlsplit(text).port != 0):
        raise ValueError("no host")
    return text


def _masked_address(text: str) -> str:
    try:
        check_address(text)
    except ValueError:
        return MASK  # Where the secrets of a malformed address are, nobody can tell.
    parts = urlsplit(text)
    _, signed, place = parts.netloc.rpartition("@")
    bare = not (parts.query or parts.fragment) and parts.path in ("", "/")
    return f"{parts.scheme}://{MASK if signed else ''}{signed}{place}{parts.path if bare else '/' + MASK}"
