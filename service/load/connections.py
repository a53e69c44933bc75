"""Connections to the server, each with a bounded number of streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import grpc

from penstock import Client
from penstock.channel import channel_options

STREAMS_PER_CONNECTION = 100
"""What many servers and proxies allow on one HTTP/2 connection (RFC 9113, section 6.5.2, advises no less); a
Penstock server itself allows more. A call beyond the limit would wait in this process without a sign."""

# Without it channels to one address share a connection.
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


class _Connection:
    """A channel, and a client for each tenant on it."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.aio.insecure_channel(target, options=channel_options(_CHANNEL_OPTIONS))
        self.streams = 0
        self._clients: dict[str, Client] = {}

    def client(self, tenant: str) -> Client:
        if tenant not in self._clients:
            self._clients[tenant] = Client(channel=self.channel, tenant=tenant or None)
        return self._clients[tenant]


class Connections:
    """Owns the channels, which are made when they are needed. Use it within one event loop."""

    def __init__(self, target: str, streams_each: int = STREAMS_PER_CONNECTION) -> None:
        self._target = target
        self._streams_each = streams_each
        self._connections: list[_Connection] = []

    def __len__(self) -> int:
        return len(self._connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in self._connections:
            await connection.channel.close()

    @contextmanager
    def borrow(self, tenant: str) -> Iterator[Client]:
        """The tenant's client on a connection that has room for one stream."""
        connection = next((c for c in self._connections if c.streams < self._streams_each), None)
        if connection is None:
            connection = _Connection(self._target)
            self._connections.append(connection)
        connection.streams += 1
        try:
            yield connection.client(tenant)
        finally:
            connection.streams -= 1
