"""Builds the messages of a Generate stream. Set attribute by attribute: the fastest way in protobuf upb."""

from collections.abc import Sequence

from engine.events import Finished, FinishReason, Prefill, Token, TokenLogprobs
from penstock.v1 import generation_pb2 as pb

Piece = Token | str
"""One token of the output, or text that is left at its end and belongs to no token."""

_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


def chunk(seq: int, token_offset: int, pieces: Sequence[Piece]) -> pb.GenerateResponse:
    """One or more pieces as one message."""
    response = pb.GenerateResponse()
    message = response.chunk
    message.seq = seq
    message.token_offset = token_offset
    tokens = [piece for piece in pieces if not isinstance(piece, str)]
    message.token_ids.extend([token.token_id for token in tokens])
    message.text = "".join([piece if isinstance(piece, str) else piece.text for piece in pieces])
    for token in tokens:
        if token.logprobs is not None:
            _add_logprobs(message, token.logprobs)
    return response


def single(seq: int, token_offset: int, token: Token) -> pb.GenerateResponse:
    """chunk() for one token without log-probabilities, by far the commonest, in two thirds of the time."""
    response = pb.GenerateResponse()
    message = response.chunk
    message.seq = seq
    message.token_offset = token_offset
    message.token_ids.append(token.token_id)
    message.text = token.text
    return response


def _add_logprobs(message: pb.Chunk, logprobs: TokenLogprobs) -> None:
    added = message.logprobs.add(logprob=logprobs.logprob)
    for token_id, logprob in logprobs.top:
        added.top.add(token_id=token_id, logprob=logprob)


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
