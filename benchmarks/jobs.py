"""What the benchmark tells its processes and what they answer: lines of JSON over stdin and stdout."""

import sys
from collections.abc import Callable

import msgspec


class Sampling(msgspec.Struct, frozen=True):
    """How a stream chooses its tokens, as the parameters of these names say in all systems.

    logit_bias: by token id. seed: None for none.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None


GREEDY = Sampling()


class Job(msgspec.Struct, frozen=True, tag_field="do", tag="run"):
    """One measured run: `streams` at a time until every prompt is answered.

    Stream n takes prompts n, n + streams, n + 2 * streams ... one after the other. max_tokens: output
    tokens for each prompt, end-of-text ignored. max_tokens_per_chunk, max_unacked_chunks: 0 for the
    server's. gaps: whether the times between messages are wanted. target: address of the server; empty
    where there is none. tokenizer: file of the model's, for a system that takes token ids only; empty: it
    gets any ids.
    """

    streams: int
    prompts: list[str]
    max_tokens: int
    max_tokens_per_chunk: int = 0
    max_unacked_chunks: int = 0
    gaps: bool = False
    target: str = ""
    tokenizer: str = ""


class Stall(msgspec.Struct, frozen=True, tag_field="do", tag="stall"):
    """Open one stream for each prompt, read up to its first token, then read nothing more and ack nothing."""

    prompts: list[str]
    max_tokens: int
    max_unacked_chunks: int
    target: str


class Release(msgspec.Struct, frozen=True, tag_field="do", tag="release"):
    """Cut the stalled streams off."""


class Drain(msgspec.Struct, frozen=True, tag_field="do", tag="drain"):
    """Read the stalled streams to their ends."""


Command = Job | Stall | Release | Drain


class Outcome(msgspec.Struct, frozen=True):
    """What a command gave. elapsed_s: from the first start to the last end.

    chunks: messages with tokens. received_bytes: of those messages. first_token_s: for each prompt, from
    its start to its first token, in seconds. gaps_s: from each such message of a stream to the next.
    """

    elapsed_s: float
    tokens: int
    chunks: int
    first_token_s: list[float]
    received_bytes: int = 0
    gaps_s: list[float] = []


def encode(command: Command) -> str:
    return msgspec.json.encode(command).decode()


def answer_jobs(greeting: str, work: Callable[[Job], Outcome]) -> None:
    """Say `greeting`, then answer one job after the other until standard input ends."""
    print(greeting, flush=True)
    for line in sys.stdin:
        outcome = work(msgspec.json.decode(line, type=Job))
        print(encode_outcome(outcome), flush=True)


def encode_outcome(outcome: Outcome) -> str:
    return msgspec.json.encode(outcome).decode()
