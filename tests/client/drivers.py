"""The two clients behind one asynchronous face, so that one suite tests both."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar, Unpack, cast

from penstock import GenerateOptions, Prompt, SyncClient, SyncStream
from penstock.receiver import StreamResults
from penstock.v1.generation_pb2 import Chunk, GenerateResponse
from penstock.v1.model_pb2 import LoadModelResponse, Model
from penstock.v1.status_pb2 import Status

_T = TypeVar("_T")


class ThreadedStream(StreamResults):
    """A SyncStream that is driven from threads, one step at a time."""

    def __init__(self, stream: SyncStream) -> None:
        super().__init__(stream._receiver)
        self._stream = stream

    def __aiter__(self) -> AsyncGenerator[Chunk, None]:
        return _steps(iter(self._stream))

    def events(self) -> AsyncGenerator[GenerateResponse, None]:
        return _steps(self._stream.events())

    async def cancel(self, reason: str = "") -> None:
        await asyncio.to_thread(self._stream.cancel, reason)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._stream.close)


class ThreadedClient:
    """A SyncClient that is driven from threads; it owns the client."""

    def __init__(self, target: str, **options: Any) -> None:
        self._client = SyncClient(target, **options)

    async def __aenter__(self) -> "ThreadedClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> ThreadedStream:
        return ThreadedStream(self._client.generate(prompt, **options))

    async def complete(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> str:
        return await asyncio.to_thread(lambda: self._client.complete(prompt, **options))

    async def count_tokens(
        self, prompt: str | Sequence[Mapping[str, str]], *, model: str | None = None
    ) -> int:
        return await asyncio.to_thread(lambda: self._client.count_tokens(prompt, model=model))

    async def models(self) -> list[Model]:
        return await asyncio.to_thread(self._client.models)

    def load_model(
        self, source: str, *, aliases: Sequence[str] = ()
    ) -> AsyncGenerator[LoadModelResponse, None]:
        return _steps(self._client.load_model(source, aliases=aliases))

    async def unload_model(self, name: str, *, now: bool = False) -> int:
        return await asyncio.to_thread(lambda: self._client.unload_model(name, now=now))

    async def status(self, *, include_streams: bool = False) -> Status:
        return await asyncio.to_thread(lambda: self._client.status(include_streams=include_streams))

    def watch_status(
        self, *, interval_ms: int | None = None, include_streams: bool = False
    ) -> AsyncIterator[Status]:
        return _steps(self._client.watch_status(interval_ms=interval_ms, include_streams=include_streams))


async def _steps(items: Iterator[_T]) -> AsyncGenerator[_T, None]:
    try:
        while (item := await asyncio.to_thread(next, items, None)) is not None:
            yield item
    finally:
        cast(Generator[_T, None, None], items).close()


class Waits:
    """Time for a client: its clock moves by what the client waits, and no wait takes time. Chance is 1/2."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.waited_s: list[float] = []

    def options(self, kind: type[object]) -> dict[str, Any]:
        """Arguments of a client of this kind."""
        return {
            "_clock": lambda: self.now_s,
            "_random": lambda: 0.5,
            "_sleep": self._sleep if kind is ThreadedClient else self._aio_sleep,
        }

    def _sleep(self, wait_s: float) -> None:
        self.waited_s.append(wait_s)
        self.now_s += wait_s

    async def _aio_sleep(self, wait_s: float) -> None:
        self._sleep(wait_s)
