"""Which worker has met the beginning of an input, and so may have its KV cached."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator

from engine.requests import ChatInput, GenerationRequest, TextInput, TokenInput, TokenisedInput

_TEXT_CHARS = 256
_TOKENS = 64


def block_keys(request: GenerationRequest) -> tuple[int, ...]:
    """One key for each leading block of the input: whole blocks only, each key standing for all up to it.

    Inputs of different salts have no key in common. A prompt that comes in pieces has none, nor has one that
    neither takes from a prefix cache nor leaves anything there.
    """
    if not request.prefix_cache:
        return ()
    keys: list[int] = []
    last = hash((type(request.input).__name__, request.cache_salt))
    for block in _blocks(request):
        last = hash((last, block))
        keys.append(last)
    return tuple(keys)


def _blocks(request: GenerationRequest) -> Iterator[Hashable]:
    match request.input:
        case TextInput(text=text):
            for end in range(_TEXT_CHARS, len(text) + 1, _TEXT_CHARS):
                yield text[end - _TEXT_CHARS : end]
        case ChatInput(messages=messages):
            yield from messages
        case TokenInput(ids=ids) | TokenisedInput(ids=ids):
            for end in range(_TOKENS, len(ids) + 1, _TOKENS):
                yield ids[end - _TOKENS : end]


class Affinity:
    """The inputs that each worker met, so many blocks of each, the latest ones."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._known: dict[int, OrderedDict[int, None]] = {}

    def note(self, worker: int, keys: tuple[int, ...]) -> None:
        """The worker gets an input."""
        known = self._known.setdefault(worker, OrderedDict())
        # The first blocks last, so that an input is forgotten from its end: the rest can still match.
        for key in reversed(keys[: self._max_blocks]):
            known[key] = None
            known.move_to_end(key)
        while len(known) > self._max_blocks:
            known.popitem(last=False)

    def match(self, worker: int, keys: tuple[int, ...]) -> int:
        """Leading blocks of an input that the worker has met."""
        known = self._known.get(worker, OrderedDict())
        for count, key in enumerate(keys):
            if key not in known:
                return count
        return len(keys)

    def forget(self, worker: int) -> None:
        """The worker is gone, and what it had cached with it."""
        self._known.pop(worker, None)
