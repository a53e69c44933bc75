"""The outbox of a stream, as its options want it."""

from flowcontrol.chunk_size import ChunkSizeRule
from flowcontrol.credits import CreditWindow
from flowcontrol.outbox import Outbox
from service import responses
from service.options import StreamOptions
from service.responses import Piece


def stream_outbox(
    credits: CreditWindow, options: StreamOptions, *, max_tokens_per_chunk: int
) -> Outbox[Piece]:
    """max_tokens_per_chunk: of this stream, at most what the options allow."""
    return Outbox(
        credits,
        rule=ChunkSizeRule(
            least=min(options.min_tokens_per_chunk, max_tokens_per_chunk), most=max_tokens_per_chunk
        ),
        max_backlog=options.max_backlog_tokens,
        max_bytes_per_chunk=options.response_chunk_bytes,
        size_of=responses.size_of,
    )
