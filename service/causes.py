"""Who ended a stream: the one table from reasons to causes, as service/errors.py has it for statuses."""

import grpc

from flowcontrol.reasons import Reason
from service.errors import ANSWERS
from service.observation import Cause

CAUSES: dict[Reason, Cause] = {
    # The caller asked for what may not be, or broke the protocol.
    Reason.INVALID_REQUEST: Cause.CLIENT,
    Reason.PROTOCOL_VIOLATION: Cause.CLIENT,
    Reason.ACK_BEYOND_SENT: Cause.CLIENT,
    Reason.NOT_IMPLEMENTED: Cause.CLIENT,
    Reason.NOT_ALLOWED: Cause.CLIENT,
    Reason.MODEL_NOT_FOUND: Cause.CLIENT,
    Reason.MODEL_NAME_TAKEN: Cause.CLIENT,
    Reason.MODEL_IS_DEFAULT: Cause.CLIENT,
    Reason.CANARY_RUNNING: Cause.CLIENT,
    # Quotas are agreed with the tenant.
    Reason.TENANT_LIMIT: Cause.CLIENT,
    # The request itself ends every worker that gets it: what the server does then is to protect the others.
    # The crashes count elsewhere, as restarts and failovers.
    Reason.POISON_REQUEST: Cause.CLIENT,
    Reason.STREAM_TIMEOUT: Cause.DEADLINE,
    # The server waited for the caller, for as long as it does.
    Reason.IDLE_TIMEOUT: Cause.DEADLINE,
    Reason.ACK_TIMEOUT: Cause.ACK_TIMEOUT,
    # Too little capacity, whoever sized it. Streams that admission refuses do not end with a cause at all:
    # they count as refusals. These are for a stream that had begun.
    Reason.TOO_MANY_STREAMS: Cause.SERVER,
    Reason.QUEUE_FULL: Cause.SERVER,
    Reason.WOULD_MISS_DEADLINE: Cause.SERVER,
    Reason.QUEUE_TIMEOUT: Cause.SERVER,
    Reason.KV_EXHAUSTED: Cause.SERVER,
    Reason.MODEL_MEMORY: Cause.SERVER,
    # The model went away under the stream. An operator may have wanted that; the caller did not.
    Reason.MODEL_LOAD_FAILED: Cause.SERVER,
    Reason.MODEL_UNLOADED: Cause.SERVER,
    Reason.MODEL_LOADING: Cause.SERVER,
    # Cut when the grace time of a shutdown was over.
    Reason.DRAINING: Cause.SERVER,
    Reason.WORKER_STUCK: Cause.SERVER,
    Reason.WORKER_LOST: Cause.SERVER,
    Reason.CRASH_LOOP: Cause.SERVER,
    # The model raised on a request that had passed every check.
    Reason.STEP_FAILED: Cause.SERVER,
    Reason.INTERNAL: Cause.SERVER,
}

_REFUSING = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


def is_refusal(reason: Reason) -> bool:
    """Whether a request that gets no stream for this reason was refused: for load, a quota, or because the
    model is away. A request that is wrong in itself was not.
    """
    return ANSWERS[reason].code in _REFUSING
