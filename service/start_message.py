"""Reads a `start` message: checks every field that can be checked without the model."""

import math
import secrets
from dataclasses import dataclass, replace
from typing import Self

import msgspec

from engine.requests import (
    ChatInput,
    GenerationRequest,
    ModelInput,
    PartsInput,
    Sampling,
    Stopping,
    TextInput,
    TokenInput,
)
from flowcontrol.features import FeatureName, StreamFeatures
from flowcontrol.reasons import Reason
from penstock.v1 import generation_pb2, input_pb2, options_pb2
from service.errors import ServiceError, Violation

ROLES = ("system", "user", "assistant")
MAX_REQUEST_ID_CHARACTERS = 128
MAX_CACHE_SALT_CHARACTERS = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIASES = 1024
MAX_LOGIT_BIAS = 100.0
MAX_PENALTY_CONTEXT_TOKENS = 4096
MAX_LOGPROBS = 20
DEFAULT_PENALTY_CONTEXT_TOKENS = 20
DEFAULT_XTC_THRESHOLD = 0.1
# What a double holds exactly, so that a seed survives clients whose only number is a double.
_SEED_BITS = 53


@dataclass(frozen=True, slots=True)
class StartMessage:
    """A checked `start`.

    request: its cache_salt is the caller's until of_tenant; every feature is on until with_features.
    priority: of penstock.v1.Priority. max_unacked_chunks, max_tokens_per_chunk: as asked for, 0 for the
    server's. last_seq, model_fingerprint: of a stream that is continued, else 0 and empty.
    """

    request_id: str
    model: str
    request: GenerationRequest
    priority: int
    max_unacked_chunks: int
    max_tokens_per_chunk: int
    chunk_timing: bool
    last_seq: int
    model_fingerprint: str

    def of_tenant(self, tenant: str) -> Self:
        """The same with the tenant in its cache salt, so that no two tenants have one in common."""
        salt = f"{len(tenant)}:{tenant}{self.request.cache_salt}"  # The length makes it unambiguous.
        return replace(self, request=msgspec.structs.replace(self.request, cache_salt=salt))

    def with_features(self, features: StreamFeatures) -> Self:
        """The same with what the engine may do for it."""
        request = msgspec.structs.replace(
            self.request,
            prefix_cache=FeatureName.PREFIX_CACHE in features.on,
            speculate=FeatureName.SPECULATION in features.on,
        )
        return replace(self, request=request)


class _Checks:
    """Collects what is wrong, so that the caller learns of everything at once."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def require(self, field: str, holds: bool, got: object, allowed: str) -> None:
        if not holds:
            self.violations.append(Violation(field, f"got {got}; allowed: {allowed}"))

    def number(self, field: str, value: float, low: float, high: float, *, above_low: bool = False) -> float:
        """value must be in [low, high], or (low, high] with above_low; NaN never is."""
        holds = low < value <= high if above_low else low <= value <= high
        allowed = f"above {low:g}, at most {high:g}" if above_low else f"{low:g} to {high:g}"
        self.require(field, holds, f"{value:g}", allowed)
        return value

    def count(self, field: str, got: int, most: int, things: str) -> None:
        self.require(field, got <= most, f"{got} {things}", f"at most {most}")

    def raise_if_any(self) -> None:
        if self.violations:
            message = "; ".join(f"{v.field}: {v.description}" for v in self.violations)
            raise ServiceError(Reason.INVALID_REQUEST, message, violations=self.violations)


def read_start(start: generation_pb2.Start) -> StartMessage:
    """Raises ServiceError INVALID_REQUEST with every field at fault."""
    checks = _Checks()
    known = start.priority in generation_pb2.Priority.values()
    checks.require("start.priority", known, start.priority, "a value of penstock.v1.Priority")
    checks.count("start.cache_salt", len(start.cache_salt), MAX_CACHE_SALT_CHARACTERS, "characters")
    checks.count("start.request_id", len(start.request_id), MAX_REQUEST_ID_CHARACTERS, "characters")
    model_input = _read_input(start, checks)
    sampling = _read_sampling(start.sampling, checks)
    stopping = _read_stopping(start.stopping, checks)
    logprobs = start.output.logprobs if start.output.HasField("logprobs") else None
    checks.number("start.output.logprobs", logprobs or 0, 0, MAX_LOGPROBS)
    if start.HasField("resume"):
        _check_resume(start, checks)
    checks.raise_if_any()
    return StartMessage(
        request_id=start.request_id or secrets.token_hex(8),
        model=start.model,
        request=GenerationRequest(
            model_input,
            sampling,
            stopping,
            logprobs,
            resume_ids=tuple(start.resume.token_ids),
            cache_salt=start.cache_salt,
            prefix_cache=True,
            speculate=True,
        ),
        priority=start.priority,
        max_unacked_chunks=start.flow.max_unacked_chunks,
        max_tokens_per_chunk=start.flow.max_tokens_per_chunk,
        chunk_timing=start.output.chunk_timing,
        last_seq=start.resume.last_seq,
        model_fingerprint=start.resume.model_fingerprint,
    )


def _check_resume(start: generation_pb2.Start, checks: _Checks) -> None:
    """What contradicts itself; whether the tokens fit the request is the engine's to say."""
    resume, sampling = start.resume, start.sampling
    # Each chunk holds a token, but for one at the end.
    most = len(resume.token_ids) + 1
    allowed = f"at most {most} with {most - 1} token ids"
    checks.require("start.resume.last_seq", resume.last_seq <= most, resume.last_seq, allowed)
    sampled = not sampling.HasField("temperature") or sampling.temperature != 0
    seeded = sampling.HasField("seed") or not sampled or not resume.token_ids
    checks.require("start.sampling.seed", seeded, "none", "the seed of the stream that is continued")


def _read_input(start: generation_pb2.Start, checks: _Checks) -> ModelInput:
    match start.WhichOneof("input"):
        case "prompt":
            return read_text(start.prompt, "start.prompt", checks)
        case "chat":
            return read_chat(start.chat, "start.chat", checks)
        case "tokens":
            ids = start.tokens.ids
            checks.require("start.tokens.ids", len(ids) > 0, "none", "at least 1")
            return TokenInput(tuple(ids))
        case "prompt_parts":
            return PartsInput()
    checks.require("start.input", False, "none", "one of prompt, chat, tokens, prompt_parts")
    return TextInput("")


def read_text(text: str, field: str, checks: _Checks) -> TextInput:
    checks.require(field, len(text) > 0, "no characters", "at least 1")
    return TextInput(text)


def read_chat(chat: input_pb2.ChatInput, field: str, checks: _Checks) -> ChatInput:
    checks.require(f"{field}.messages", len(chat.messages) > 0, "none", "at least 1")
    for index, message in enumerate(chat.messages):
        known = message.role in ROLES
        checks.require(f"{field}.messages[{index}].role", known, repr(message.role), ", ".join(ROLES))
    return ChatInput(tuple((message.role, message.content) for message in chat.messages))


def read_count_request(request: generation_pb2.CountTokensRequest) -> ModelInput:
    """Raises ServiceError INVALID_REQUEST."""
    checks = _Checks()
    model_input: ModelInput = TextInput("")
    match request.WhichOneof("input"):
        case "prompt":
            model_input = read_text(request.prompt, "prompt", checks)
        case "chat":
            model_input = read_chat(request.chat, "chat", checks)
        case _:
            checks.require("input", False, "none", "one of prompt, chat")
    checks.raise_if_any()
    return model_input


def _read_sampling(options: options_pb2.SamplingOptions, checks: _Checks) -> Sampling:
    def optional(name: str, default: float) -> float:
        return getattr(options, name) if options.HasField(name) else default  # type: ignore[arg-type]

    at = "start.sampling."
    context = int(optional("penalty_context_tokens", DEFAULT_PENALTY_CONTEXT_TOKENS))
    checks.count(at + "logit_bias", len(options.logit_bias), MAX_LOGIT_BIASES, "entries")
    for token_id, bias in options.logit_bias.items():
        checks.number(f"{at}logit_bias[{token_id}]", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)
    return Sampling(
        temperature=checks.number(at + "temperature", optional("temperature", 1.0), 0, 10),
        top_p=checks.number(at + "top_p", optional("top_p", 1.0), 0, 1, above_low=True),
        top_k=options.top_k,
        min_p=checks.number(at + "min_p", options.min_p, 0, 1),
        repetition_penalty=checks.number(
            at + "repetition_penalty", optional("repetition_penalty", 1.0), 0, 10, above_low=True
        ),
        presence_penalty=checks.number(at + "presence_penalty", options.presence_penalty, -2, 2),
        frequency_penalty=checks.number(at + "frequency_penalty", options.frequency_penalty, -2, 2),
        penalty_context_tokens=int(
            checks.number(at + "penalty_context_tokens", context, 1, MAX_PENALTY_CONTEXT_TOKENS)
        ),
        logit_bias=dict(options.logit_bias),
        seed=options.seed if options.HasField("seed") else secrets.randbits(_SEED_BITS),
        xtc_probability=checks.number(at + "xtc_probability", options.xtc_probability, 0, 1),
        xtc_threshold=checks.number(
            at + "xtc_threshold", optional("xtc_threshold", DEFAULT_XTC_THRESHOLD), 0, 0.5
        ),
    )


def _read_stopping(options: options_pb2.StoppingOptions, checks: _Checks) -> Stopping:
    at = "start.stopping."
    max_tokens = options.max_tokens if options.HasField("max_tokens") else None
    checks.require(at + "max_tokens", max_tokens != 0, 0, "at least 1")
    most = math.inf if max_tokens is None else max_tokens
    checks.require(
        at + "min_tokens", options.min_tokens <= most, options.min_tokens, f"at most max_tokens, {max_tokens}"
    )
    checks.count(at + "stop_strings", len(options.stop_strings), MAX_STOP_STRINGS, "strings")
    for index, text in enumerate(options.stop_strings):
        fits = 1 <= len(text) <= MAX_STOP_STRING_CHARACTERS
        allowed = f"1 to {MAX_STOP_STRING_CHARACTERS}"
        checks.require(f"{at}stop_strings[{index}]", fits, f"{len(text)} characters", allowed)
    checks.count(at + "stop_token_ids", len(options.stop_token_ids), MAX_STOP_TOKEN_IDS, "ids")
    return Stopping(
        max_tokens=max_tokens,
        min_tokens=options.min_tokens,
        stop_strings=tuple(options.stop_strings),
        stop_token_ids=tuple(options.stop_token_ids),
        ignore_eos=options.ignore_eos,
    )
