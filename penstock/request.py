"""Makes a request message from keyword arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, cast

from google.protobuf.message import Message

from penstock.errors import InvalidRequestError
from penstock.retry import Retry
from penstock.tenant import Metadata
from penstock.v1.generation_pb2 import CountTokensRequest, Priority, Start
from penstock.v1.input_pb2 import ChatInput, ChatMessage, TokenInput
from penstock.v1.options_pb2 import FlowOptions, OutputOptions, SamplingOptions, StoppingOptions

# Text to continue; a conversation as {"role": ..., "content": ...} mappings; or token ids.
Prompt = str | Sequence[Mapping[str, str]] | Sequence[ChatMessage] | Sequence[int]
PRIORITIES = {
    "bulk": Priority.PRIORITY_BULK,
    "default": Priority.PRIORITY_DEFAULT,
    "interactive": Priority.PRIORITY_INTERACTIVE,
    "system": Priority.PRIORITY_SYSTEM,
}


class GenerateOptions(TypedDict, total=False):
    """Keyword arguments of `generate` and `complete`. Left out or None: the server's default.

    protos/penstock/v1/options.proto says what each one means and which values it takes. Besides those:
    stop: one stop string or several. priority: class of service, "bulk", "default", "interactive" or
    "system", or a Priority of the contract. cache_salt: the prefix cache is shared only between streams of
    the same tenant and salt. timeout_s: seconds from the start of the first call to the last
    message. metadata: gRPC metadata to send; an x-tenant-id in it takes the place of the client's tenant.
    request_id: name of this stream in the server's log. retries: how many calls in a row may be lost without
    a new token before the error is raised; the stream is resumed until then. None or 0: it never is.
    on_retry: called when a call was lost, before the wait for the next one.
    """

    model: str | None
    request_id: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    penalty_context_tokens: int | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    xtc_probability: float | None
    xtc_threshold: float | None
    max_tokens: int | None
    min_tokens: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    logprobs: int | None
    chunk_timing: bool | None
    max_unacked_chunks: int | None
    max_tokens_per_chunk: int | None
    priority: str | Priority.ValueType | None
    cache_salt: str | None
    timeout_s: float | None
    metadata: Metadata | None
    retries: int | None
    on_retry: Callable[[Retry], None] | None


_GROUPS: tuple[tuple[str, type[Message]], ...] = (
    ("sampling", SamplingOptions),
    ("stopping", StoppingOptions),
    ("output", OutputOptions),
    ("flow", FlowOptions),
)
_OTHER_NAMES = {"stop_strings": "stop"}

_M = TypeVar("_M", bound=Message)


def build_start(prompt: Prompt, options: GenerateOptions) -> Start:
    """The `start` message. TypeError for an unknown keyword; InvalidRequestError for a value that its field
    cannot hold. Whether the values make sense is left to the server.
    """
    unknown = sorted(options.keys() - GenerateOptions.__optional_keys__)
    if unknown:
        raise TypeError(f"generate() got an unexpected keyword argument {unknown[0]!r}")
    given = dict(cast(Mapping[str, Any], options))
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    start = Start()
    for name in ("request_id", "model", "cache_salt"):
        if given.get(name) is not None:
            start.MergeFrom(_message(Start, name, given[name], f"start.{name}"))
    for group, kind in _GROUPS:
        for field in kind.DESCRIPTOR.fields:
            value = given.get(_OTHER_NAMES.get(field.name, field.name))
            if value is not None:
                part = _message(kind, field.name, value, f"start.{group}.{field.name}")
                getattr(start, group).MergeFrom(part)
    if given.get("priority") is not None:
        start.priority = _priority(given["priority"])
    _set_input(start, prompt, "start.")
    return start


def retries_of(options: GenerateOptions) -> int:
    """The `retries` option. InvalidRequestError when it is no count."""
    retries = options.get("retries") or 0
    if not isinstance(retries, int) or retries < 0:
        raise _invalid("retries", f"got {retries!r}; allowed: whole numbers from 0")
    return retries


def build_count(prompt: Prompt, model: str | None) -> CountTokensRequest:
    """The request of CountTokens. InvalidRequestError for token ids: they are counted already."""
    request = CountTokensRequest(model=model or "")
    _set_input(request, prompt, "")
    return request


def _priority(value: object) -> Priority.ValueType:
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    if isinstance(value, int) and value in Priority.values():
        return cast(Priority.ValueType, value)
    raise _invalid("start.priority", f"got {value!r}; allowed: {', '.join(PRIORITIES)}")


def _set_input(request: Start | CountTokensRequest, prompt: Prompt, prefix: str) -> None:
    if isinstance(prompt, str):
        request.prompt = _message(Start, "prompt", prompt, f"{prefix}prompt").prompt
        return
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Iterable):
        raise TypeError(f"prompt: expected text, chat messages or token ids, not {type(prompt).__name__}")
    parts: list[Any] = list(prompt)
    if not parts:
        raise _invalid(f"{prefix}prompt", "is empty")
    if isinstance(parts[0], Mapping | ChatMessage):
        request.chat.CopyFrom(ChatInput(messages=[_chat_message(part, f"{prefix}chat") for part in parts]))
    elif isinstance(request, Start):
        request.tokens.CopyFrom(_message(TokenInput, "ids", parts, f"{prefix}tokens.ids"))
    else:
        raise _invalid(f"{prefix}prompt", "only text and chat messages can be counted")


def _chat_message(part: Any, path: str) -> ChatMessage:
    if isinstance(part, ChatMessage):
        return part
    try:
        return ChatMessage(**part)
    except (TypeError, ValueError) as error:
        raise _invalid(f"{path}.messages", f'expected {{"role": ..., "content": ...}}: {error}') from None


def _message(kind: type[_M], field: str, value: object, path: str) -> _M:
    try:
        return kind(**{field: value})
    except (TypeError, ValueError) as error:
        raise _invalid(path, str(error)) from None


def _invalid(path: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path}: {problem}", violations=((path, problem),))
