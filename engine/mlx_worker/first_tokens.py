"""First tokens of greedy streams, remembered by everything that decides them."""

import hashlib

import msgspec

from engine.mlx_worker.row import Row

_LEAST_CHECKS = 20
_MAX_REMEMBERED = 65536


class FirstTokens:
    """Guesses the first token of a prompt that was seen before. Lives in the model thread.

    guessed: tokens that were sent before they were computed. wrong: those that the model did not confirm.
    """

    def __init__(
        self, *, enabled: bool, max_mismatch_rate: float, max_remembered: int = _MAX_REMEMBERED
    ) -> None:
        """max_mismatch_rate: share of the checked guesses; above it there are none any more."""
        self._enabled = enabled
        self._max_mismatch_rate = max_mismatch_rate
        self._max_remembered = max_remembered
        self._tokens: dict[bytes, int] = {}
        """The least recently used first."""
        self._checked = 0
        self.guessed = 0
        self.wrong = 0

    def key_of(self, row: Row) -> bytes | None:
        """What the first token of a row is remembered by; None where it is not to be guessed.

        The key holds all that decides the first token and whether the stream ends with it. A guess is
        without log-probabilities, and no stream ends with one, since the end must not have to be taken back.
        """
        prepared, request = row.prepared, row.prepared.request
        if (
            not self._enabled
            or not request.speculate
            or request.sampling.temperature != 0
            or request.logprobs is not None
            or row.generated
            or not row.whole
            or row.supersedes
            or prepared.max_tokens < 2
        ):
            return None
        sampling, stopping = request.sampling, request.stopping
        decisive = (
            request.cache_salt,
            prepared.prompt_ids,
            (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty),
            sampling.penalty_context_tokens,
            sorted(sampling.logit_bias.items()),
            stopping.min_tokens,
            stopping.stop_strings,
            prepared.ending_ids,
        )
        return hashlib.sha256(msgspec.msgpack.encode(decisive)).digest()

    def recall(self, key: bytes) -> int | None:
        """The token that the stream before began with. It counts as sent."""
        token_id = self._tokens.pop(key, None)
        if token_id is not None:
            self._tokens[key] = token_id
            self.guessed += 1
        return token_id

    def learn(self, key: bytes, token_id: int) -> None:
        """A stream has begun with this token, and goes on."""
        if not self._enabled:
            return
        self._tokens.pop(key, None)
        self._tokens[key] = token_id
        if len(self._tokens) > self._max_remembered:
            del self._tokens[next(iter(self._tokens))]

    def check(self, key: bytes, guess: int, token_id: int) -> bool:
        """Whether the guess was the token that the model gave. A wrong one is forgotten."""
        self._checked += 1
        if guess == token_id:
            return True
        self.wrong += 1
        self._tokens.pop(key, None)
        if self._checked >= _LEAST_CHECKS and self.wrong > self._max_mismatch_rate * self._checked:
            self._enabled = False
            self._tokens.clear()
        return False
