"""A caller that is lost while a message is being written."""

import asyncio
import time
from typing import Any, NoReturn

import grpc
import pytest

from engine.model_host import ModelHost
from flowcontrol.admission.governor import Governor
from flowcontrol.registry import StreamRegistry
from flowcontrol.stream_state import State
from penstock.v1 import generation_pb2 as pb
from service.admission import Admission
from service.generation import GenerationServicer
from tests.flowcontrol.admission.governors import governor_options
from tests.service.calls import endless
from tests.service.drivers import ADMISSION, OPTIONS, scripted_engine


class LostCaller:
    """A context whose caller is gone after some writes; grpc.aio tells that by a failing batch first."""

    def __init__(self, writes: int) -> None:
        self._writes = writes
        self._requests = [pb.GenerateRequest(start=endless(100))]

    async def read(self) -> Any:
        if self._requests:
            return self._requests.pop()
        return await asyncio.Future[Any]()

    async def write(self, message: pb.GenerateResponse) -> None:
        if not self._writes:
            raise grpc.aio.InternalError("the batch failed")
        self._writes -= 1

    def done(self) -> bool:
        return False

    def peer_identities(self) -> None:
        return None

    def invocation_metadata(self) -> None:
        return None

    def time_remaining(self) -> None:
        return None

    async def abort_with_status(self, status: Any) -> NoReturn:
        raise AssertionError("there is nobody to tell an error to")


async def test_a_lost_caller_is_no_failure_of_the_stream() -> None:
    for writes in range(4):
        engine = scripted_engine(step_s=0)
        await engine.start()
        registry = StreamRegistry()
        governor = Governor(governor_options(), now_s=0.0, chance=lambda: 0.5)
        admission = Admission(governor, engine, ADMISSION, time.monotonic)
        servicer = GenerationServicer(ModelHost.of(engine), registry, admission, OPTIONS, None)
        context: Any = LostCaller(writes)
        with pytest.raises(asyncio.CancelledError):
            await servicer.Generate(None, context)
        assert registry.snapshot().ended_by_state[State.CANCELLED] == 1
        assert engine.snapshot().counters.running_rows == 0
        await asyncio.wait_for(servicer.idle(), 1)
        await engine.stop()
