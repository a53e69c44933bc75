"""Callers of a chaos run: what each does and how its stream ended."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.chaos.requests import PART_BYTES, Output, Request
from penstock.aio_stream import Stream
from penstock.client import Client
from penstock.errors import OverloadedError, PenstockError, UnavailableError
from penstock.request import GenerateOptions

COMPLETED = "completed"
CANCELLED = "cancelled"
LEFT = "left"
REFUSED = "refused"
VIOLATION = "violation"

_MOST_TRIES = 40
_LIMIT_S = 240.0
_WINDOW = 4
# While no worker is ready a server may refuse to begin; it may not lose what it began.
_NOT_YET = frozenset({"MODEL_LOADING", "WORKER_STUCK"})


@dataclass(frozen=True)
class Way:
    """What a caller does after some chunks. pause_s: it reads nothing for so long, then goes on.

    leave: it cancels ("cancel"), closes its connection ("disconnect"), or neither.
    """

    after_chunks: int = 0
    pause_s: float = 0.0
    leave: str = ""


@dataclass(frozen=True)
class Ended:
    """How a caller's stream ended. problem: what is wrong with it, for a violation. refusals: by reason, of
    the tries before. longest_gap_s: between two chunks, without its own pauses."""

    request: str
    ending: str
    problem: str = ""
    refusals: tuple[str, ...] = ()
    failovers: int = 0
    longest_gap_s: float = 0.0


async def call(target: str, request: Request, expected: Output, way: Way, **changes: str) -> Ended:
    """One caller with a connection of its own. It asks again while admission refuses it.

    changes: other options of the request, such as model.
    """
    options: GenerateOptions = {**request.options, **changes, "timeout_s": _LIMIT_S}  # type: ignore[typeddict-item]
    if way.pause_s:
        options["max_unacked_chunks"] = _WINDOW
    refusals: list[str] = []
    async with Client(target, request_chunk_bytes=PART_BYTES) as client:
        for _ in range(_MOST_TRIES):
            stream = client.generate(request.prompt, **options)
            try:
                gap_s = await _read(client, stream, way)
            except PenstockError as error:
                if _is_own(error, way):
                    return _judged(request, stream, expected, way, refusals, 0.0)
                if not _is_refusal(error, stream):
                    return Ended(request.name, VIOLATION, f"{type(error).__name__}: {error}", tuple(refusals))
                refusals.append(error.reason)
                await asyncio.sleep(min(error.retry_after_s or 0.5, 5.0))
            else:
                return _judged(request, stream, expected, way, refusals, gap_s)
    return Ended(request.name, REFUSED, refusals=tuple(refusals))


async def _read(client: Client, stream: Stream, way: Way) -> float:
    """The longest time between two chunks."""
    chunks, longest_s, before_s = 0, 0.0, 0.0
    async for _ in stream:
        now_s = time.monotonic()
        longest_s = max(longest_s, now_s - before_s) if chunks else 0.0
        chunks += 1
        if chunks == way.after_chunks:
            if way.pause_s:
                await asyncio.sleep(way.pause_s)
            if way.leave == "cancel":
                await stream.cancel()
            elif way.leave == "disconnect":
                await client.close()
        before_s = time.monotonic()
    return longest_s


def _is_own(error: PenstockError, way: Way) -> bool:
    """Whether the caller brought that about itself."""
    return way.leave == "disconnect" and not isinstance(error, OverloadedError)


def _is_refusal(error: PenstockError, stream: Stream) -> bool:
    """Admission may refuse a stream at any time before its first token, with a reason."""
    if stream.token_ids:
        return False
    if isinstance(error, OverloadedError):
        return bool(error.reason)
    return isinstance(error, UnavailableError) and error.reason in _NOT_YET


def _judged(
    request: Request, stream: Stream, expected: Output, way: Way, refusals: list[str], gap_s: float
) -> Ended:
    # Another reason is that of a cancelled stream, of which there is only a part.
    finished = stream.done and stream.finished.reason == expected.reason
    problem = difference(Output(stream.text, stream.token_ids, expected.reason), expected, whole=finished)
    if not problem and not finished and not way.leave:
        problem = "it ended before its time"
    ending = VIOLATION if problem else COMPLETED if finished else CANCELLED if way.leave == "cancel" else LEFT
    failovers = sum(notice.code == "FAILOVER" for notice in stream.notices)
    return Ended(request.name, ending, problem, tuple(refusals), failovers, gap_s)


def difference(got: Output, expected: Output, *, whole: bool) -> str:
    """What differs from the unbroken output, "" for nothing; of one that is not whole, as far as it came."""
    ids, text = got.token_ids, got.text
    if whole and ids == expected.token_ids and text == expected.text:
        return ""
    if not whole and ids == expected.token_ids[: len(ids)] and expected.text.startswith(text):
        return ""
    place = next(
        (n for n, (a, b) in enumerate(zip(ids, expected.token_ids, strict=False)) if a != b),
        min(len(ids), len(expected.token_ids)),
    )
    return (
        f"differs from token {place} of {len(expected.token_ids)} on (got {len(ids)} tokens, "
        f"{len(text)} of {len(expected.text)} characters)"
    )


def drawn_way(kind: str, dice: float, ways: Mapping[str, str]) -> Way:
    """What a caller of this kind does; dice in [0, 1) says when. ways: kind of event by what it means."""
    meaning = ways.get(kind, "")
    after = 1 + int(dice * 12)
    if meaning == "stall":
        return Way(after_chunks=after, pause_s=0.5 + 2.5 * dice)
    return Way(after_chunks=after, leave=meaning) if meaning else Way()
