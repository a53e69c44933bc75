"""A server whose workers can be made slow one by one."""

from pathlib import Path

from penstock.v1.status_pb2 import WORKER_STATE_READY, Status
from tests.engine.worker_double import pace
from tests.integration.paced_server import paced
from tests.integration.processes import running_server
from tests.service.calls import GenerateCall, endless
from tests.service.eventually import eventually
from tests.service.servers import stubs_of

SLOW_STEP_S = 0.1


def ready(status: Status) -> bool:
    return [worker.state for worker in status.workers] == [WORKER_STATE_READY] * 2


async def test_one_worker_can_be_slow_beside_another(tmp_path: Path) -> None:
    paces = tmp_path / "paces"
    paces.mkdir()
    with running_server(tmp_path / "stderr", {"ENGINE__WORKERS": "2"}, **paced(paces)) as server:
        async with stubs_of(server.address) as stubs:
            slow = (await eventually(stubs.status, ready)).workers[0].pid
            pace(paces, slow, SLOW_STEP_S)
            async with GenerateCall(stubs.generation) as first, GenerateCall(stubs.generation) as second:
                for call in (first, second):
                    await call.start(endless(2000))
                status = await eventually(
                    stubs.status, lambda seen: min(worker.decode_steps for worker in seen.workers) >= 3
                )
            worker = status.workers[0]
            assert worker.pid == slow
            # The pace holds from the next step on, so the first one was none of them.
            assert worker.step_s >= (worker.decode_steps - 1) * SLOW_STEP_S
            assert status.workers[1].restarts == 0
