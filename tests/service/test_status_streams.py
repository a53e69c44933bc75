"""What status shows of each active stream."""

import grpc

from penstock.v1 import status_pb2 as pb
from tests.service.calls import GenerateCall, endless
from tests.service.drivers import scripted_engine
from tests.service.eventually import eventually
from tests.service.servers import Stubs, serving


async def listed(stubs: Stubs) -> list[pb.StreamStatus]:
    response = await stubs.statuses.GetStatus(pb.GetStatusRequest(include_streams=True))
    return list(response.status.active_streams)


async def test_a_stalled_stream_beside_one_that_flows() -> None:
    flow = {"max_unacked_chunks": 3, "max_tokens_per_chunk": 2}
    async with (
        serving(scripted_engine(step_s=0.001)) as local,
        GenerateCall(local.stubs.generation) as slow,
        GenerateCall(local.stubs.generation) as plain,
    ):
        await slow.start(endless(2000, request_id="slow", flow=flow))
        await plain.start(endless(2000, request_id="plain"))
        await plain.half_close()
        await plain.read_chunks(3)

        async def shown() -> list[pb.StreamStatus]:
            return await listed(local.stubs)

        streams = await eventually(
            shown, lambda streams: streams[0].state == pb.STREAM_STATE_STALLED and streams[0].parked
        )
        assert [stream.request_id for stream in streams] == ["slow", "plain"]
        stalled, flowing = streams
        assert (stalled.sent, stalled.acked, stalled.credit, stalled.window) == (3, 0, 0, 3)
        assert stalled.waiting_tokens in (2, 3)
        assert stalled.stalled_ms > 0
        assert stalled.age_ms >= stalled.stalled_ms
        assert not flowing.credits_enforced
        assert flowing.stalled_ms == 0
        assert not (await local.stubs.status()).active_streams

        await slow.ack(0)
        await slow.half_close()
        await slow.read_chunks(10)
        assert all(stream.state != pb.STREAM_STATE_STALLED for stream in await listed(local.stubs))


async def test_watching_lists_streams_that_come_and_go() -> None:
    async with serving(scripted_engine(step_s=0.001)) as local:
        watch = local.stubs.statuses.WatchStatus(pb.WatchStatusRequest(interval_ms=100, include_streams=True))
        seen = [await watch.read()]
        async with GenerateCall(local.stubs.generation) as call:
            await call.start(endless(2000, request_id="mine"))
            await call.read_chunks(1)
            while not seen[-1].status.active_streams:
                seen.append(await watch.read())
        while seen[-1].status.active_streams:
            seen.append(await watch.read())
        assert watch.cancel()
        assert await watch.code() is grpc.StatusCode.CANCELLED
    assert {stream.request_id for one in seen for stream in one.status.active_streams} == {"mine"}
