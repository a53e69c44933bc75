"""Frames between the service process and a worker: msgpack behind a length of four bytes, big-endian.

A command is one frame. The worker answers with frames that hold a list of messages; one decode step
of the whole batch is one frame.
"""

import asyncio
import struct
from typing import BinaryIO

import msgspec

from engine.contract import EngineCounters, ModelInfo
from engine.events import Failed, Finished, Prefill, Token
from engine.options import WorkerOptions
from engine.requests import GenerationRequest, ModelInput
from flowcontrol.reasons import Reason

_LENGTH = struct.Struct(">I")


LOADING_STAGES = ("download", "weights", "warm-up")


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """Always the first command."""

    options: WorkerOptions


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    stream: int
    request: GenerationRequest


class PromptPart(msgspec.Struct, frozen=True, tag="prompt_part"):
    """The next piece of a prompt, after Submit with PartsInput."""

    stream: int
    text: str
    last: bool


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    stream: int


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    stream: int


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    stream: int


class Count(msgspec.Struct, frozen=True, tag="count"):
    """Count the tokens of an input; answered with Counted of the same call."""

    call: int
    input: ModelInput


class Tokenise(msgspec.Struct, frozen=True, tag="tokenise"):
    """Tokenise the input of a request and check its ids; answered with Tokenised of the same call."""

    call: int
    request: GenerationRequest


class Tune(msgspec.Struct, frozen=True, tag="tune"):
    """In force from the next step on, in place of what Configure said; all as in WorkerOptions."""

    prefill_step_tokens: int
    max_prefix_cache_bytes: int
    max_parked_kv_bytes: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End the process. So does the end of the connection."""


Command = Configure | Submit | PromptPart | Cancel | Pause | Resume | Count | Tokenise | Tune | Stop


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The model is loaded and warm."""

    model: ModelInfo
    cpu_blas: str
    full_batch_step_s: float


class Loading(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """How far the model is loaded. stage: of LOADING_STAGES; done, total: in bytes, total 0 when unknown."""

    stage: str
    done: int
    total: int


class StartFailed(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The model cannot be loaded with these options; the worker ends."""

    message: str


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Made by the step loop itself, so that a stuck loop is not hidden by a healthy thread beside it."""

    counters: EngineCounters


class Counted(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Answer to Count: the number, or a reason with a message and the field at fault."""

    call: int
    tokens: int
    reason: Reason | None
    message: str
    field: str


class Tokenised(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Answer to Tokenise: the ids, or a reason with a message and the field at fault."""

    call: int
    ids: tuple[int, ...]
    took_s: float
    reason: Reason | None
    message: str
    field: str


Message = (
    Prefill | Token | Finished | Failed | Ready | StartFailed | Heartbeat | Counted | Tokenised | Loading
)

_encoder = msgspec.msgpack.Encoder()
_command_decoder = msgspec.msgpack.Decoder(Command)
_messages_decoder = msgspec.msgpack.Decoder(list[Message])


def _frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


def encode_command(command: Command) -> bytes:
    return _frame(_encoder.encode(command))


def encode_messages(messages: list[Message]) -> bytes:
    return _frame(_encoder.encode(messages))


def read_command(source: BinaryIO) -> Command | None:
    """The next command, or None at the end of the connection. Blocks."""
    try:
        head = source.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        payload = source.read(length)
    except ConnectionError:
        return None  # A service that goes away with events unread resets the connection.
    return _command_decoder.decode(payload) if len(payload) == length else None


async def read_messages(source: asyncio.StreamReader) -> list[Message]:
    """The next frame. Raises asyncio.IncompleteReadError at the end of the connection."""
    (length,) = _LENGTH.unpack(await source.readexactly(_LENGTH.size))
    return _messages_decoder.decode(await source.readexactly(length))
