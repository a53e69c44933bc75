"""Looks at the status of a server."""

from penstock.v1.status_pb2 import WORKER_STATE_READY, Status
from tests.service.eventually import eventually
from tests.service.servers import Stubs

WHOLE_AGAIN_S = 60.0


def _is_idle(status: Status) -> bool:
    worker = status.workers[0]
    return not (status.streams.active or worker.running_rows or worker.waiting_rows or worker.paused_rows)


async def idle(stubs: Stubs) -> Status:
    """The status once no stream is left, in the server or in the worker."""
    return await eventually(stubs.status, _is_idle)


async def whole(stubs: Stubs) -> Status:
    """The status once every worker is ready."""
    return await eventually(
        stubs.status,
        lambda status: all(worker.state == WORKER_STATE_READY for worker in status.workers),
        within_s=WHOLE_AGAIN_S,
    )


async def stalled(stubs: Stubs, streams: int = 1) -> Status:
    """The status once so many streams are stalled, their rows are parked and no row runs."""
    return await eventually(
        stubs.status,
        lambda s: s.streams.stalled == s.workers[0].paused_rows == streams and not s.workers[0].running_rows,
    )


async def stands_still(stubs: Stubs) -> Status:
    """The status of a worker that makes no more steps. Steps that are told late show in between."""
    steps = -1

    def settled(status: Status) -> bool:
        nonlocal steps
        before, steps = steps, status.workers[0].decode_steps
        return before == steps and not status.workers[0].running_rows

    return await eventually(stubs.status, settled)
