"""Requests whose output is determined, of every kind that callers make."""

import random
from dataclasses import dataclass, field

from penstock.client import Client
from penstock.request import GenerateOptions, Prompt

_WORDS = (
    "little",
    "dragon",
    "garden",
    "deep",
    "blue",
    "sea",
    "old",
    "tree",
    "happy",
    "friend",
    "river",
    "bear",
)
PART_BYTES = 1024
"""A prompt longer than this goes up in pieces."""
KINDS = ("greedy", "seeded", "chat", "parts", "stop", "penalised", "long")
_LONG_WORDS = 500


@dataclass(frozen=True)
class Request:
    """name: its kind and number. prompt, options: as of Client.generate."""

    name: str
    prompt: Prompt
    options: GenerateOptions = field(default_factory=GenerateOptions)


@dataclass(frozen=True)
class Output:
    """What a request comes to when nothing is in its way."""

    text: str
    token_ids: tuple[int, ...]
    reason: int


def make_requests(count: int, max_tokens: int, seed: int) -> list[Request]:
    """Requests of all kinds in turn, of up to max_tokens output tokens; equal seeds make equal ones."""
    dice = random.Random(seed)
    return [_request(KINDS[number % len(KINDS)], number, max_tokens, dice) for number in range(count)]


def _request(kind: str, number: int, max_tokens: int, dice: random.Random) -> Request:
    told = " ".join(dice.choices(_WORDS, k=dice.randrange(4, 40)))
    text = f"Once upon a time {told}"
    options: GenerateOptions = {
        "temperature": 0.0,
        "max_tokens": dice.randrange(max_tokens // 4, max_tokens + 1),
        "ignore_eos": dice.random() < 0.7,
    }
    prompt: Prompt = text
    if kind == "seeded":
        options |= {"temperature": 0.9, "top_p": 0.95, "min_p": 0.02, "seed": dice.getrandbits(32)}
    elif kind == "chat":
        options |= {"temperature": 0.7, "top_k": 50, "seed": dice.getrandbits(32)}
        prompt = [
            {"role": "system", "content": "Tell stories."},
            {"role": "user", "content": f"Tell me of {told}."},
        ]
    elif kind == "parts":
        prompt = text + " " + " ".join(dice.choices(_WORDS, k=PART_BYTES // 5))
    elif kind == "long":
        prompt = text + " " + " ".join(dice.choices(_WORDS, k=_LONG_WORDS))
    elif kind == "stop":
        options |= {"stop": ["friend", " happy."], "ignore_eos": True}
    elif kind == "penalised":
        options |= {"repetition_penalty": 1.2, "temperature": 0.8, "seed": dice.getrandbits(32)}
    return Request(f"{kind} {number}", prompt, options)


async def unbroken(client: Client, request: Request) -> Output:
    """What the server answers to a request alone."""
    stream = client.generate(request.prompt, **request.options)
    async for _ in stream:
        pass
    return Output(stream.text, stream.token_ids, stream.finished.reason)
