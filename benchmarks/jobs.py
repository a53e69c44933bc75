"""What the benchmark tells its processes and what they answer: lines of JSON over stdin and stdout."""

import sys
from collections.abc import Callable

import msgspec


class Job(msgspec.Struct, frozen=True):
    """One measured run: `streams` at a time until every prompt is answered.

    Stream n takes prompts n, n + streams, n + 2 * streams ... one after the other. max_tokens: output
    tokens for each prompt, end-of-text ignored. max_tokens_per_chunk: 0 for the server's. target: address
    of the server; empty where there is none.
    """

    streams: int
    prompts: list[str]
    max_tokens: int
    max_tokens_per_chunk: int = 0
    target: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What a run gave. elapsed_s: from the first start to the last end.

    first_token_s: for each prompt, from its start to its first token, in seconds.
    """

    elapsed_s: float
    tokens: int
    chunks: int
    first_token_s: list[float]


def answer_jobs(greeting: str, work: Callable[[Job], Outcome]) -> None:
    """Say `greeting`, then answer one job after the other until standard input ends."""
    print(greeting, flush=True)
    for line in sys.stdin:
        outcome = work(msgspec.json.decode(line, type=Job))
        print(msgspec.json.encode(outcome).decode(), flush=True)
