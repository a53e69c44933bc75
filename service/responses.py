"""Builds the messages of a Generate stream. Set attribute by attribute: the fastest way in protobuf upb."""

from collections.abc import Sequence

from engine.contract import ModelInfo
from engine.events import Finished, FinishReason, Prefill, Token, TokenLogprobs
from penstock.v1 import generation_pb2 as pb
from service.start_message import StartMessage

Piece = Token | str
"""One token of the output, or text that is left at its end, belongs to no token and goes alone."""

_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


# What a token id and the framing of one log-probability take at most, in bytes.
_TOKEN_ID_BYTES = 5
_LOGPROB_BYTES = 7
_TOP_LOGPROB_BYTES = 13


def size_of(piece: Piece) -> int:
    """Bytes that a piece takes in a chunk, or a few more."""
    if isinstance(piece, str):
        return len(piece.encode())
    size = len(piece.text.encode()) + _TOKEN_ID_BYTES
    if piece.logprobs is not None:
        size += _LOGPROB_BYTES + _TOP_LOGPROB_BYTES * len(piece.logprobs.top)
    return size


def chunk(seq: int, token_offset: int, pieces: Sequence[Piece]) -> pb.GenerateResponse:
    """One or more pieces as a new message."""
    response = pb.GenerateResponse()
    message = response.chunk
    message.seq = seq
    message.token_offset = token_offset
    first = pieces[0]
    if len(pieces) == 1 and not isinstance(first, str):  # By far the commonest.
        message.token_ids.append(first.token_id)
        message.text = first.text
        if first.logprobs is not None:
            _add_logprobs(message, first.logprobs)
    else:
        _add_pieces(message, pieces)
    return response


class ChunkMessage:
    """A response with a chunk that may be filled again once it was written. Holds no log-probabilities.

    It is overwritten field by field and not cleared: Clear() makes the message's arena grow by more.
    """

    __slots__ = ("_token_ids", "chunk", "response")

    def __init__(self) -> None:
        self.response = pb.GenerateResponse()
        self.chunk = self.response.chunk
        self._token_ids = self.chunk.token_ids

    def fill(self, seq: int, token_offset: int, pieces: Sequence[Piece]) -> None:
        """Put one or more pieces in, in the place of those before."""
        message, ids, first = self.chunk, self._token_ids, pieces[0]
        message.seq = seq
        message.token_offset = token_offset
        if len(pieces) == 1 and len(ids) == 1 and not isinstance(first, str):
            ids[0] = first.token_id
            message.text = first.text
        else:
            del ids[:]
            _add_pieces(message, pieces)


def _add_pieces(message: pb.Chunk, pieces: Sequence[Piece]) -> None:
    """Add tokens, or text alone, to a chunk without tokens."""
    tokens = [piece for piece in pieces if not isinstance(piece, str)]
    message.token_ids.extend([token.token_id for token in tokens])
    message.text = "".join([piece if isinstance(piece, str) else piece.text for piece in pieces])
    for token in tokens:
        if token.logprobs is not None:
            _add_logprobs(message, token.logprobs)


def _add_logprobs(message: pb.Chunk, logprobs: TokenLogprobs) -> None:
    added = message.logprobs.add(logprob=logprobs.logprob)
    for token_id, logprob in logprobs.top:
        added.top.add(token_id=token_id, logprob=logprob)


def accepted(
    start: StartMessage,
    model: ModelInfo,
    *,
    max_unacked_chunks: int,
    max_tokens_per_chunk: int,
    prompt_part_bytes: int,
) -> pb.GenerateResponse:
    """max_unacked_chunks: 0 when credits are not enforced. prompt_part_bytes: good size of a piece."""
    return pb.GenerateResponse(
        accepted=pb.Accepted(
            request_id=start.request_id,
            model=model.name,
            max_unacked_chunks=max_unacked_chunks,
            max_tokens_per_chunk=max_tokens_per_chunk,
            seed=start.request.sampling.seed,
            model_fingerprint=model.fingerprint,
            prompt_part_bytes=prompt_part_bytes,
        )
    )


def progress(event: Prefill) -> pb.GenerateResponse:
    response = pb.GenerateResponse()
    message = response.progress
    message.queue_position = event.queue_position
    message.prompt_tokens_done = event.done
    message.prompt_tokens_total = event.total
    return response


def waiting(position: int, *, wait_s: float) -> pb.GenerateResponse:
    """Progress of a stream that waits for admission. wait_s: 0 when nothing is known of it."""
    response = pb.GenerateResponse()
    response.progress.queue_position = position
    response.progress.estimated_wait_ms = wait_s * 1e3
    return response


def slow_consumer(*, mean_ack_ms: float, threshold_ms: float, unacked_chunks: int) -> pb.GenerateResponse:
    text = (
        f"acks come after {mean_ack_ms:.0f} ms on average, the limit is {threshold_ms:.0f} ms; "
        f"{unacked_chunks} chunks are not acked"
    )
    return pb.GenerateResponse(notice=pb.Notice(code="SLOW_CONSUMER", text=text))


def failover() -> pb.GenerateResponse:
    text = "the worker that ran the stream was lost; it goes on with the next token"
    return pb.GenerateResponse(notice=pb.Notice(code="FAILOVER", text=text))


def finished(
    event: Finished, *, admission_s: float, first_token_s: float, stalled_s: float
) -> pb.GenerateResponse:
    """admission_s: how long it waited for its permit. first_token_s: from the start message to the first
    token at the servicer; 0 without a token.
    """
    response = pb.GenerateResponse()
    message = response.finished
    message.reason = _REASONS[event.reason]
    message.stop_string = event.stop_string
    if event.stop_token_id is not None:
        message.stop_token_id = event.stop_token_id
    message.usage.prompt_tokens = event.prompt_tokens
    message.usage.cached_prompt_tokens = event.cached_tokens
    message.usage.completion_tokens = event.completion_tokens
    message.timing.admission_ms = admission_s * 1e3
    message.timing.queue_ms = (admission_s + event.queue_s) * 1e3
    message.timing.tokenise_ms = event.tokenise_s * 1e3
    message.timing.cache_lookup_ms = event.cache_lookup_s * 1e3
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
