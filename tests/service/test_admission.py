"""The asyncio side of admission."""

import asyncio
from typing import Any

from engine.contract import EngineSnapshot, EngineState
from engine.scripted import ScriptedEngine, counting_script
from flowcontrol.admission.ask import Outcome
from flowcontrol.admission.governor import Governor
from flowcontrol.limits.contract import LimitReason, StrategyName
from service.admission import Admission, Seat
from service.start_message import read_start
from tests.flowcontrol.admission.governors import governor_options
from tests.service.calls import endless
from tests.service.drivers import ADMISSION, Clock


class WatchedEngine(ScriptedEngine):
    """Counts how often it was looked at."""

    def __init__(self) -> None:
        super().__init__(counting_script, step_s=None)
        self.looks = 0

    def snapshot(self) -> EngineSnapshot:
        self.looks += 1
        return super().snapshot()


async def looks_in_a_while(engine: WatchedEngine) -> int:
    """How often admission looks at the engine in a thousand turns of the loop, after something was due."""
    governor = Governor(governor_options(), now_s=0.0, chance=lambda: 0.5)
    admission = Admission(governor, engine, ADMISSION, lambda: 100.0)
    deciding = asyncio.create_task(admission.keep_deciding())
    for _ in range(1000):
        await asyncio.sleep(0)
    deciding.cancel()
    await asyncio.gather(deciding, return_exceptions=True)
    return engine.looks


async def test_admission_does_not_spin_while_the_engine_is_not_ready() -> None:
    engine = WatchedEngine()
    assert engine.snapshot().state is EngineState.STARTING
    assert await looks_in_a_while(engine) < 10


async def test_admission_does_not_spin_while_there_is_nothing_to_do() -> None:
    engine = WatchedEngine()
    await engine.start()
    assert await looks_in_a_while(engine) < 10


def admitted(admission: Admission, *, left_s: float | None = None, **fields: Any) -> Seat:
    return admission.ask(read_start(endless(10, **fields)), "", left_s)


async def test_a_deadline_that_passes_after_the_first_token_is_no_sign_of_overload() -> None:
    engine, clock = WatchedEngine(), Clock()
    await engine.start()
    strategy = {"strategy": StrategyName.PID}
    for has_token in (True, False):
        governor = Governor(
            governor_options(initial_streams=4, limits=strategy), now_s=clock(), chance=lambda: 0.5
        )
        admission = Admission(governor, engine, ADMISSION, clock)
        seats = [admitted(admission, left_s=0.5) for _ in range(4)]
        clock.now_s += 0.6
        for seat in seats:
            if has_token:
                seat.first_token()
            seat.end(Outcome.IGNORED, 3)
        clock.now_s += 1.0
        admission.decide()
        dropped = governor.snapshot(clock()).limit.reason is LimitReason.LOWERED_DROPS
        assert dropped is not has_token


async def test_tokens_of_a_resumed_stream_are_not_taken_for_its_prompt() -> None:
    engine, clock = WatchedEngine(), Clock()
    await engine.start()
    governor = Governor(governor_options(initial_streams=4), now_s=clock(), chance=lambda: 0.5)
    admission = Admission(governor, engine, ADMISSION, clock)
    request = read_start(endless(10, prompt="w" * 4000)).request
    before = admission.sizes.guess_tokens(request)
    seat = admitted(admission, prompt="w" * 4000, resume={"token_ids": list(range(1, 9))})
    seat.prompt_known(1000 + 8)  # As four bytes to a token, which was assumed before.
    assert admission.sizes.guess_tokens(request) == before == 1000
