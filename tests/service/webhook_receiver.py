"""A real HTTP receiver on the loopback that answers as it is told, and alerts to send to it."""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from service.alert import Alert, AlertKind, AlertServer, Severity
from service.alerts import Alerts, AlertsSnapshot
from service.options import AlertOptions

SECRET = "correct-horse"
NOW_S = 1_795_230_245.5
"""What the clock of `alerts_to` says: half a second after the time of `alert`."""


@dataclass(frozen=True)
class Post:
    """A request as it came. headers: by lower-case name."""

    line: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """status None: no answer ever."""

    status: int | None = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Receiver:
    """Answers posts with `answers` in turn, and with 200 when there are no more."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.posts: list[Post] = []
        self.came = asyncio.Condition()
        self.address = ""
        self._open: set[asyncio.Task[None]] = set()

    async def wait_posts(self, count: int) -> None:
        """Until so many posts have come."""
        async with self.came:
            await self.came.wait_for(lambda: len(self.posts) >= count)

    def ids(self) -> list[str]:
        return [post.headers["x-penstock-alert-id"] for post in self.posts]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._answer_posts(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # The sender went, or the test is over.
        finally:
            self._open.discard(task)
            writer.close()

    async def end(self) -> None:
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _answer_posts(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *rest = head.strip().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            async with self.came:
                self.posts.append(Post(line, headers, body))
                self.came.notify_all()
            answer = self.answers.popleft() if self.answers else Answer()
            if answer.status is None:
                await asyncio.Event().wait()
            extra = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
            writer.write(f"HTTP/1.1 {answer.status} X\r\nContent-Length: 0\r\n{extra}\r\n".encode())
            await writer.drain()


@asynccontextmanager
async def listening(
    receiver: Receiver, *, on: socket.socket | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """The receiver, at its `address`. on: a bound socket to listen on."""
    on = on or bound_socket()
    server = await asyncio.start_server(receiver.serve, sock=on, ssl=tls)
    receiver.address = address_of(on, "https" if tls else "http")
    try:
        yield receiver
    finally:
        server.close()
        await receiver.end()
        await server.wait_closed()


def bound_socket() -> socket.socket:
    """A free port that refuses connections until somebody listens. The caller owns the socket."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def address_of(sock: socket.socket, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{sock.getsockname()[1]}/alerts"


class Pauses:
    """Instead of asyncio.sleep: notes the times and does not wait."""

    def __init__(self) -> None:
        self.taken_s: list[float] = []

    async def __call__(self, wait_s: float) -> None:
        self.taken_s.append(wait_s)
        await asyncio.sleep(0)


def options(
    address: str, *, secret: str = SECRET, timeout_s: float = 60.0, attempts: int = 4, queue_size: int = 100
) -> AlertOptions:
    return AlertOptions(
        webhook_url=address,
        webhook_secret=secret,
        timeout_s=timeout_s,
        max_attempts=attempts,
        queue_size=queue_size,
        sustained_s=0.0,
    )


def alert(number: int = 1, **details: float | str) -> Alert:
    """One with the id "alert-NUMBER"."""
    return Alert(
        id=f"alert-{number}",
        at=datetime(2026, 11, 21, 3, 4, 5, tzinfo=UTC),
        kind=AlertKind.BREACH,
        severity=Severity.WARNING,
        subject="ttft_p95",
        text="The 95th percentile of the time to first token is above its objective.",
        details=details,
        server=AlertServer("127.0.0.1:50051", "0.1.0"),
    )


@asynccontextmanager
async def alerts_to(given: AlertOptions, pauses: Pauses | None = None) -> AsyncIterator[Alerts]:
    """Alerts that are posting; chance is 1, so that the waits are the longest."""
    alerts = Alerts(given, chance=lambda: 1.0, clock=lambda: NOW_S, sleep=pauses or Pauses())
    alerts.start()
    try:
        yield alerts
    finally:
        await alerts.close(0)


async def settled(alerts: Alerts) -> AlertsSnapshot:
    """The counts when all that was told is delivered or given up."""
    await alerts.close(60)
    return alerts.snapshot()


def counts(
    delivered: int = 0, retried: int = 0, given_up: int = 0, dropped: int = 0, waiting: int = 0
) -> AlertsSnapshot:
    return AlertsSnapshot(delivered, retried, given_up, dropped, waiting)
