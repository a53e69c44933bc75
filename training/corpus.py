"""The corpus of the embedded model: stories and chats, written by a seeded grammar."""

from collections.abc import Iterator
from dataclasses import dataclass

from training.facts import SYSTEM_PROMPTS
from training.questions import Exchange, exchange, name_exchanges
from training.stories import Author, story

CHAT_SHARE = 0.74
SECOND_TURN_SHARE = 0.15
NAME_SHARE = 0.04
SYSTEM_SHARE = 0.15


@dataclass(frozen=True)
class Message:
    """One turn of a chat; role is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """A conversation that ends with the assistant's answer."""

    messages: tuple[Message, ...]


Document = str | Chat


def exchanges(rng: Author) -> list[Exchange]:
    """The questions and answers of one chat."""
    if rng.random() < NAME_SHARE:
        told, asked = name_exchanges(rng)
        between = [exchange(rng)] if rng.random() < 0.3 else []
        return [told, *between, asked] if rng.random() < 0.7 else [told]
    return [exchange(rng) for _ in range(2 if rng.random() < SECOND_TURN_SHARE else 1)]


def chat(rng: Author) -> Chat:
    """A chat of one to three turns, now and then behind a system prompt."""
    messages = [Message("system", rng.choice(SYSTEM_PROMPTS))] if rng.random() < SYSTEM_SHARE else []
    for question, answer in exchanges(rng):
        messages += (Message("user", question), Message("assistant", answer))
    return Chat(tuple(messages))


def documents(seed: int, leaning: bool = True) -> Iterator[Document]:
    """Endless documents; the same arguments give the same ones."""
    rng = Author(seed)
    rng.leaning = leaning
    while True:
        yield chat(rng) if rng.random() < CHAT_SHARE else story(rng)
