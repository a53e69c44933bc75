"""`penstock top` against a real server, as a user runs it: as a process."""

import asyncio
import os
import re
import signal
import socket
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.client.commands import PROGRAM, Penstock
from tests.integration.admission_calls import TenantCall, fixed_limit
from tests.integration.processes import SCRIPTED, ServerProcess, environment, running_server
from tests.service.calls import endless
from tests.service.eventually import eventually
from tests.service.servers import Stubs, stubs_of

COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")
STALLED = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("top") / "stderr"
    with running_server(log, fixed_limit(4), **SCRIPTED) as server:
        yield server


@asynccontextmanager
async def load(stubs: Stubs) -> AsyncIterator[None]:
    """Streams that nobody reads and one that waits for them, of two tenants."""
    async with AsyncExitStack() as stack:
        tenants = ["acme"] * STALLED + ["beta labs"] * 2
        for tenant in tenants:
            call = await stack.enter_async_context(TenantCall(stubs.generation, tenant))
            await call.start(endless(2000))

        async def stalled() -> int:
            status = await stubs.status()
            return status.streams.stalled

        await eventually(stalled, lambda number: number == STALLED + 1)
        yield


async def read_until(stream: asyncio.StreamReader, text: str) -> str:
    """What was written up to and with the line that has the text."""
    read = ""
    while text not in read:
        line = (await stream.readline()).decode()
        assert line, f"it ended without {text!r}: {read}"
        read += line
    return read


async def test_once_under_load(server: ServerProcess) -> None:
    async with stubs_of(server.address) as stubs, load(stubs):
        result = await Penstock(server.address)("top", "--once", "--interval", "0.3")
    assert (result.code, result.err) == (0, "")
    assert max(len(line) for line in result.out.splitlines()) <= 80
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "✓ healthy" in lines[0]
    assert lines[1].startswith("▲ 4 stalled, longest ")
    assert any(line.startswith("In flight 4 ") and line.endswith("4 stalled, 0 in prefill") for line in lines)
    assert any(line.startswith("Queue 1 ") for line in lines)
    assert any(line.startswith("Tenants acme ") and " · beta labs " in line for line in lines)
    first = next(place for place, line in enumerate(lines) if line.startswith("Stream State"))
    streams = lines[first + 1 : first + 6]
    assert sum(" stalled " in line and "──────── 0/" in line for line in streams) == 4
    assert " queued #1 " in streams[4]
    assert not any(letter in result.out for letter in "\x1b\r")


async def test_a_pipe_gets_a_picture_for_each_update_until_ctrl_c(server: ServerProcess) -> None:
    process = await Penstock(server.address).start("top", "--interval", "0.1")
    assert process.stdout is not None
    for _ in range(3):
        text = await read_until(process.stdout, "Streams")
        assert "\x1b" not in text
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_once_without_a_server() -> None:
    result = await Penstock("127.0.0.1:1")("top", "--once")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("penstock: cannot reach 127.0.0.1:1")


async def test_an_interval_that_is_not_allowed() -> None:
    result = await Penstock("127.0.0.1:1")("top", "--interval", "0.01")
    assert result.code == 2
    assert "--interval" in result.err


async def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"SERVER__PORT": str(port)}
    process = await Penstock(f"127.0.0.1:{port}").start("top", "--interval", "0.1")
    assert process.stdout is not None
    await read_until(process.stdout, f"cannot reach 127.0.0.1:{port} (")
    with running_server(tmp_path / "first", options, **SCRIPTED):
        await read_until(process.stdout, "✓ healthy")
    told = await read_until(process.stdout, "connection lost (")
    assert "▲ draining" in told
    with running_server(tmp_path / "second", options, **SCRIPTED):
        told = await read_until(process.stdout, "✓ healthy")
    assert told.count("trying again") <= 1
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


class Terminal:
    """`penstock top` on a terminal of its own. Ends it when the block is left."""

    def __init__(self, target: str, **variables: str) -> None:
        self._target, self._variables = target, variables
        self.written = ""

    async def __aenter__(self) -> "Terminal":
        self._ours, self._its = os.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self._its)
        variables = {
            "TERM": "xterm-256color",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **self._variables,
        }
        clean = {
            name: value for name, value in environment(variables).items() if name not in ("COLUMNS", "LINES")
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, "top", "--interval", "0.1", "--target", self._target,
            stdin=self._its, stdout=self._its, env=clean,
        )  # fmt: skip
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        os.close(self._ours)
        os.close(self._its)

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self._its, (rows, columns))

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def settings(self) -> list[object]:
        return termios.tcgetattr(self._its)

    async def until(self, text: str) -> str:
        """What is written from now on, up to and with the text."""
        loop, read = asyncio.get_running_loop(), ""
        while text not in read:
            read += (await loop.run_in_executor(None, os.read, self._ours, 65_536)).decode(errors="replace")
        self.written += read
        return read


async def test_a_terminal_without_colour_q_ends_it(server: ServerProcess) -> None:
    async with Terminal(server.address, NO_COLOR="1") as terminal:
        await terminal.until("✓ healthy")
        terminal.press(b"q")
        await terminal.until("\x1b[?1049l")
        assert await terminal.process.wait() == 0
        assert terminal.settings() == terminal.before
        assert "\x1b[?25h" in terminal.written
        assert not COLOUR.search(terminal.written)


async def test_a_terminal_with_colour_that_grows(server: ServerProcess) -> None:
    async with Terminal(server.address) as terminal:
        assert "╭" not in await terminal.until("✓ healthy")
        terminal.resize(40, 120)
        terminal.process.send_signal(signal.SIGWINCH)
        await terminal.until("╭─")
        terminal.press(b"p")
        await terminal.until("paused")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.until("\x1b[?1049l")
        assert await terminal.process.wait() == 0
        assert terminal.settings() == terminal.before
        assert COLOUR.search(terminal.written)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_leaves_the_terminal_as_it_was(server: ServerProcess, number: signal.Signals) -> None:
    async with Terminal(server.address) as terminal:
        await terminal.until("✓ healthy")
        terminal.process.send_signal(number)
        await terminal.until("\x1b[?1049l")
        assert await terminal.process.wait() == 0
        assert terminal.settings() == terminal.before
