"""Scripted engines for the tests of the service."""

from collections.abc import AsyncIterator

import pytest_asyncio

from engine.scripted import ScriptedEngine
from tests.service.drivers import scripted_engine


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    """Steps only when the test says so; counts " 1", " 2", " 3" ..."""
    engine = scripted_engine()
    await engine.start()
    yield engine
    await engine.stop()
