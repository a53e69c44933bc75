"""Makes docs/top.svg: `penstock top` on a server under load. `python -m benchmarks.top_picture`, 2 minutes.

The embedded model with two workers, callers of three tenants in bursts, and clients that stop reading.
"""

import asyncio
import io
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from benchmarks.processes import Child
from penstock import Client
from penstock.tenant import tenant_metadata
from penstock.v1 import generation_pb2 as pb
from penstock.v1.generation_pb2_grpc import GenerationServiceStub
from service.top.history import History
from service.top.view import Frame

_PICTURE = Path(__file__).parents[1] / "docs" / "top.svg"
_LISTENING = "penstock listening on "
_WIDTH, _HEIGHT = 120, 40
# As many as the widest chart has columns, and a few more.
_SAMPLES = 90
# Share of the limit that is in use in the picture, so that it shows a burst.
_BUSY = 0.8
_STALLED = ("mobile", "mobile", "batch")
_STALLED_TOKENS = 600
_BETWEEN_S = 12.0
# Low targets, so that the limit is seen to move.
_OPTIONS = {
    "ENGINE__WORKERS": "2",
    "STREAM_REGISTRY__BACKPRESSURE__ACK_TIMEOUT_MS": "600000",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__TARGET_TTFT_MS": "400",
    "STREAM_REGISTRY__ADAPTIVE_LIMITS__TARGET_LATENCY_MS": "100",
    "TELEMETRY__PROMETHEUS_PORT": "0",
    "SLO__EVALUATION_INTERVAL_MS": "2000",
    "FEATURES__PREFIX_CACHE__ENABLED": "false",
    "FEATURES__PREFIX_CACHE__CANARY_PERCENT": "20",
}
_LOAD = (
    *("--arrivals", "burst", "--rate", "4", "--burst-factor", "4", "--burst-seconds", "6"),
    *("--period-seconds", "14", "--max-tokens", "120", "--duration", str(2 * _SAMPLES)),
    *("--tenants", "acme=5,research=2,support=1", "--grace-seconds", "0"),
)


async def _picture(target: str) -> Frame:
    """What is to be seen after so many seconds, in a burst."""
    history = History()
    async with Client(target) as client, _stalled_clients(target):
        async for now in client.watch_status(interval_ms=1000, include_streams=True):
            history.add(now)
            limits = now.admission.limits
            if len(history.samples) >= _SAMPLES and limits.in_flight >= _BUSY * limits.limit:
                return Frame(target, now, history, time.strftime("%H:%M:%S"))
    raise RuntimeError("the server ended")


@asynccontextmanager
async def _stalled_clients(target: str) -> AsyncIterator[None]:
    """Clients that read the first message and no more, one after the other."""
    async with grpc.aio.insecure_channel(target) as channel, asyncio.TaskGroup() as tasks:
        any_channel: Any = channel
        started = [
            tasks.create_task(_stall(GenerationServiceStub(any_channel), tenant, place * _BETWEEN_S))
            for place, tenant in enumerate(_STALLED)
        ]
        yield
        for task in started:
            task.cancel()


async def _stall(stub: Any, tenant: str, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    call = stub.Generate(metadata=tenant_metadata(tenant))
    start = pb.Start(prompt="Once upon a time")
    start.stopping.max_tokens, start.stopping.ignore_eos = _STALLED_TOKENS, True
    await call.write(pb.GenerateRequest(start=start))
    await call.read()
    await asyncio.Event().wait()


async def _until_serving(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        async for response in stub.Watch(health_pb2.HealthCheckRequest()):
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                return


def svg(frame: Frame) -> str:
    """The picture, with fonts of the one who looks at it instead of some from another host.

    rich leaves a gap between two lines; here blocks and frames meet.
    """
    console = Console(
        file=io.StringIO(),
        width=_WIDTH,
        height=_HEIGHT,
        record=True,
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(frame, height=_HEIGHT)
    drawn = console.export_svg(title="penstock top", unique_id="top")
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    drawn = drawn.replace("Fira Code, monospace", "DejaVu Sans Mono, Menlo, Consolas, monospace")
    drawn = drawn.replace("font-size: 20px", "font-size: 21px")
    drawn = re.sub(r' clip-path="url\(#top-line-\d+\)"', "", drawn)
    return re.sub(
        r'(<rect fill="[^"]*" x="[^"]*") y="([^"]*)" (width="[^"]*") height="24.65"', _taller, drawn
    )


def _taller(rect: re.Match[str]) -> str:
    return f'{rect[1]} y="{float(rect[2]) - 1.5:g}" {rect[3]} height="26.15"'


def main() -> int:
    with ExitStack() as stack:
        environ = {f"PENSTOCK_{name}": value for name, value in _OPTIONS.items()}
        server = stack.enter_context(Child("service", "serve", "--port", "0", environ=environ))
        target = server.read_line().removeprefix(_LISTENING).strip()
        asyncio.run(_until_serving(target))
        stack.enter_context(Child("service", "bench", "--target", target, *_LOAD))
        frame = asyncio.run(_picture(target))
    _PICTURE.write_text(svg(frame), encoding="utf-8")
    print(f"wrote {_PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
