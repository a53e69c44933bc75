"""The pool of chunk messages, one lent to each stream."""

import asyncio

from flowcontrol.pool import Lease, Pool, PoolSnapshot
from service.options import PoolOptions
from service.responses import ChunkMessage


class MessagePool:
    """A Pool of ChunkMessage, and the task that trims it.

    A message may be filled again as soon as `context.write` has returned: grpc.aio serialises before
    its first await.
    """

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._pool: Pool[ChunkMessage] = Pool(ChunkMessage, size=options.size, max_uses=options.max_uses)

    def lease(self) -> Lease[ChunkMessage]:
        """A message for one stream, which must release it."""
        return self._pool.lease()

    def snapshot(self) -> PoolSnapshot:
        return self._pool.snapshot()

    async def keep_trimmed(self) -> None:
        """Give up what stays idle, until cancelled."""
        while True:
            await asyncio.sleep(self._options.cleanup_interval_s)
            self._pool.trim()
