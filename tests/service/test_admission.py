"""The asyncio side of admission."""

import asyncio

from engine.contract import EngineSnapshot, EngineState
from engine.scripted import ScriptedEngine, counting_script
from flowcontrol.admission.governor import Governor
from service.admission import Admission
from tests.flowcontrol.admission.governors import governor_options
from tests.service.drivers import ADMISSION


class WatchedEngine(ScriptedEngine):
    """Counts how often it was looked at."""

    def __init__(self) -> None:
        super().__init__(
            counting_script,
            step_s=None,
            steps_per_turn=1,
            max_batch_rows=8,
            context_tokens=4096,
            default_max_tokens=2000,
            vocab_size=100_000,
        )
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
