"""Scripted engines and a receiver of alerts for the tests of the service."""

from collections.abc import AsyncIterator

import pytest_asyncio

from engine.scripted import ScriptedEngine
from tests.service.drivers import scripted_engine
from tests.service.webhook_receiver import Receiver, listening


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    """Steps only when the test says so; counts " 1", " 2", " 3" ..."""
    engine = scripted_engine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Of alerts; answers with 200 unless told otherwise."""
    async with listening(Receiver()) as receiver:
        yield receiver
