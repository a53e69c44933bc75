"""Builds the messages of a Generate stream. Set attribute by attribute: the fastest way in protobuf upb."""

from collections.abc import Sequence
from typing import NamedTuple

from engine.events import Finished, FinishReason, Prefill, Token, TokenLogprobs
from penstock.v1 import generation_pb2 as pb


class Piece(NamedTuple):
    """One token of the output, or with token_id None the text that is left at the end.

    arrived_s: when it left the engine, in seconds of the stream's clock.
    """

    token_id: int | None
    text: str
    logprobs: TokenLogprobs | None
    arrived_s: float


_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


def piece(token: Token, arrived_s: float) -> Piece:
    return Piece(token.token_id, token.text, token.logprobs, arrived_s)


def chunk(seq: int, token_offset: int, pieces: Sequence[Piece]) -> pb.GenerateResponse:
    """One or more pieces as one message."""
    response = pb.GenerateResponse()
    message = response.chunk
    message.seq = seq
    message.token_offset = token_offset
    if len(pieces) == 1:
        message.text = pieces[0].text
    else:
        message.text = "".join([one.text for one in pieces])
    for one in pieces:
        if one.token_id is not None:
            message.token_ids.append(one.token_id)
        if one.logprobs is not None:
            logprobs = message.logprobs.add(logprob=one.logprobs.logprob)
            for token_id, logprob in one.logprobs.top:
                logprobs.top.add(token_id=token_id, logprob=logprob)
    return response


def progress(event: Prefill) -> pb.GenerateResponse:
    response = pb.GenerateResponse()
    message = response.progress
    message.queue_position = event.queue_position
    message.prompt_tokens_done = event.done
    message.prompt_tokens_total = event.total
    return response


def finished(event: Finished, *, first_token_s: float, stalled_s: float) -> pb.GenerateResponse:
    """first_token_s: from submission to the first token at the servicer; 0 without a token."""
    response = pb.GenerateResponse()
    message = response.finished
    message.reason = _REASONS[event.reason]
    message.stop_string = event.stop_string
    if event.stop_token_id is not None:
        message.stop_token_id = event.stop_token_id
    message.usage.prompt_tokens = event.prompt_tokens
    message.usage.completion_tokens = event.completion_tokens
    message.timing.queue_ms = event.queue_s * 1e3
    message.timing.prefill_ms = event.prefill_s * 1e3
    message.timing.first_token_ms = first_token_s * 1e3
    message.timing.decode_ms = event.decode_s * 1e3
    message.timing.stalled_ms = stalled_s * 1e3
    return response


def cancelled(
    *, prompt_tokens: int, completion_tokens: int, first_token_s: float, stalled_s: float
) -> pb.GenerateResponse:
    """The end of a stream that the caller cancelled: what is known on this side of the engine."""
    response = pb.GenerateResponse()
    message = response.finished
    message.reason = pb.FINISH_REASON_CANCELLED
    message.usage.prompt_tokens = prompt_tokens
    message.usage.completion_tokens = completion_tokens
    message.timing.first_token_ms = first_token_s * 1e3
    message.timing.stalled_ms = stalled_s * 1e3
    return response
