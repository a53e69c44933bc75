"""Watches how fast a stream's reader acks."""

import structlog

from flowcontrol.ack_times import AckTimes
from flowcontrol.registry import Place
from penstock.v1 import generation_pb2 as pb
from service import responses
from service.options import StreamOptions

_log = structlog.get_logger("penstock.stream")


class SlowReader:
    """The ack times of one stream, and what is said when they are too long."""

    def __init__(self, options: StreamOptions, place: Place, request_id: str) -> None:
        self.times = AckTimes(options.slow_consumer_threshold_s)
        if not options.enforce_credits:
            self.times.clear()
        self._threshold_ms = options.slow_consumer_threshold_s * 1e3
        self._place = place
        self._request_id = request_id

    def found(self, *, unacked: int) -> pb.GenerateResponse:
        """The reader is slow: count and log it. Returns the notice. unacked: chunks that have no ack."""
        self._place.found_slow()
        mean_ms = (self.times.mean_s or 0.0) * 1e3
        _log.warning(
            "slow consumer", request_id=self._request_id, unacked_chunks=unacked, mean_ack_ms=round(mean_ms)
        )
        return responses.slow_consumer(
            mean_ack_ms=mean_ms, threshold_ms=self._threshold_ms, unacked_chunks=unacked
        )
