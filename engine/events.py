"""What an engine tells about a stream. Each stream ends with exactly one Finished or Failed.

msgspec structs, because one of them is made, sent to another process and read for every token.
"""

from enum import StrEnum

import msgspec

from flowcontrol.reasons import Reason


class FinishReason(StrEnum):
    """Why a stream ended well."""

    STOP = "stop"
    LENGTH = "length"


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Natural log-probability of the chosen token; the most likely ones as (id, logprob), best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


class Prefill(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The stream waits (queue_position > 0) or its prompt is being computed.

    queue_position: rows that are taken up before this one. done, total: tokens of the prompt and of
    what is resumed; total is what is known of a prompt that comes in pieces, 0 before anything is. None
    comes after a token; after Interrupted all of it may come again.
    """

    stream: int
    queue_position: int
    done: int
    total: int


class Token(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """One output token and the text that became certain with it, perhaps none."""

    stream: int
    token_id: int
    text: str
    logprobs: TokenLogprobs | None


class Finished(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """The stream ended well.

    text: what was held back for a possible stop string and is now certain. cached_tokens: of the prompt's,
    those whose KV came from the prefix cache. Durations in seconds: queue_s from submission to the first
    prompt token, of which tokenise_s (but for what was prepared before) and cache_lookup_s for making token
    ids and for finding a cached prefix; prefill_s from there to the first output token; decode_s from the
    first to the last one. After an Interrupted they are the whole stream's, not the last worker's.
    """

    stream: int
    reason: FinishReason
    text: str
    stop_string: str
    stop_token_id: int | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_s: float
    tokenise_s: float
    cache_lookup_s: float
    prefill_s: float
    decode_s: float


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """The stream ended with an error. field: path of the field at fault, empty when none is."""

    stream: int
    reason: Reason
    message: str
    field: str


class Interrupted(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """The stream's worker was lost. It goes on elsewhere with the next token; none is lost or repeated."""

    stream: int


class Assigned(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """A worker process has the stream from now on; another one after an Interrupted. For traces.

    Engines without worker processes do not tell it.
    """

    stream: int
    worker: int
    pid: int


Event = Prefill | Token | Finished | Failed | Interrupted | Assigned
