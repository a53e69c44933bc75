"""`penstock demo`: the whole path in one command: start the server, stream a story, stop the server."""

import asyncio
import os
import signal
import sys
from typing import Annotated, Any

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock import Client, PenstockError
from service.cli_generate import Generation, stream_to_terminal
from service.terminal import run_command

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_LISTENING = "penstock listening on "


class DemoError(PenstockError):
    """The demo's server did not do what it should. Printed as one line, as every error of a command."""


def demo(
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "Once upon a time",
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 160,
) -> None:
    """Start a server on the embedded model, stream a story, show the numbers, stop the server."""
    run_command(lambda: _demo(prompt, max_tokens), "the demo's server")


async def _demo(prompt: str, max_tokens: int) -> None:
    print("Starting a server on the embedded model ...", flush=True)
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve", "--port", "0", "--host", "127.0.0.1", "--model", "embedded",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PENSTOCK_TELEMETRY__PROMETHEUS_PORT": "0"},
    )  # fmt: skip
    try:
        target = await asyncio.wait_for(_address(server), _START_TIMEOUT_S)
        await asyncio.wait_for(_until_serving(target), _START_TIMEOUT_S)
        async with Client(target) as client:
            print(f"\n{prompt}", end="", flush=True)
            generation = await stream_to_terminal(
                client.generate(prompt, max_tokens=max_tokens, temperature=0, timeout_s=_START_TIMEOUT_S)
            )
            blas = (await client.status()).workers[0].cpu_blas
        print(f"\n{_numbers(generation, blas)}")
    finally:
        status = await _stop(server)
    if status != 0:
        raise DemoError(f"the server ended with exit status {status}")
    print("Server stopped.")


async def _address(server: asyncio.subprocess.Process) -> str:
    """HOST:PORT, from the line that the server prints first."""
    assert server.stdout is not None
    line = (await server.stdout.readline()).decode()
    if not line.startswith(_LISTENING):
        raise DemoError("the server ended before it listened; its log is above")
    return line.removeprefix(_LISTENING).strip()


async def _until_serving(target: str) -> None:
    """Wait until the server's health says SERVING."""
    async with grpc.aio.insecure_channel(target) as channel:
        # The typing package knows Check only.
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        async for response in watch:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                return


def _numbers(generation: Generation, blas: str) -> str:
    usage, credit = generation.finished.usage, generation.credit
    timing = generation.finished.timing
    used = credit.window - credit.lowest_credit
    return "\n".join(
        (
            f"tokens      {usage.completion_tokens} after a prompt of {usage.prompt_tokens}",
            f"TTFT        {generation.first_chunk_s * 1e3:.0f} ms "
            f"(queue {timing.queue_ms:.0f}, prefill {timing.prefill_ms:.0f})",
            f"tokens/s    {generation.tokens_per_s:.0f}",
            f"credits     at most {used} of {credit.window} in use, {credit.acks_sent} acks",
            f"BLAS        {blas or 'mlx (an OpenBLAS makes batches several times faster, see the README)'}",
        )
    )


async def _stop(server: asyncio.subprocess.Process) -> int:
    """SIGTERM, then the exit status."""
    if server.returncode is None:
        server.send_signal(signal.SIGTERM)
    try:
        return await asyncio.wait_for(server.wait(), _STOP_TIMEOUT_S)
    except TimeoutError:
        server.kill()
        return await server.wait()
