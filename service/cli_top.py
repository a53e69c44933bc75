"""`penstock top`: a live view of a server."""

import asyncio
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.layout import Layout
from rich.live import Live
from rich.text import Text

from engine.backoff import backoff_s
from penstock import Client, InvalidRequestError, PenstockError
from penstock.errors import NotImplementedOnServerError
from penstock.v1.status_pb2 import Status
from service.terminal import TARGET, TargetOption, run_command
from service.top.history import History
from service.top.view import Frame
from service.until_first import until_first

_FIRST_WAIT_S = 0.5
_MOST_WAIT_S = 5.0
# A server that says nothing for so long, or for three intervals, counts as lost.
_PATIENCE_S = 5.0
_INTERVALS = 3
# A second message brings the first rates.
_ONCE_MESSAGES = 2

Interval = Annotated[float, typer.Option(min=0.1, max=60.0, help="Seconds between two updates.")]
Once = Annotated[bool, typer.Option("--once", help="Print one picture, after one interval, and end.")]


def top(interval: Interval = 1.0, once: Once = False, target: TargetOption = TARGET) -> None:
    """Show what a server does, as it happens, until q or Ctrl-C; p stops the picture and starts it again.

    Where standard output is no terminal, one picture is printed for each update.
    """
    run = _once if once else _follow
    run_command(lambda: run(target, interval), target, on_interrupt="", interrupted=0)


async def _once(target: str, interval_s: float) -> None:
    history, now = History(), None
    async with Client(target) as client, aclosing(_updates(client, interval_s)) as updates:
        async for now in updates:
            history.add(now)
            if len(history.samples) == _ONCE_MESSAGES:
                break
    _console().print(Frame(target, now, history, _time_of_day()))


async def _follow(target: str, interval_s: float) -> None:
    console = _console()
    if console.is_terminal and not console.is_dumb_terminal:
        await _on_screen(console, target, interval_s)
        return
    lost = ""
    async with Client(target) as client, aclosing(_frames(client, target, interval_s)) as frames:
        async for frame in frames:
            if not frame.lost:
                console.print(frame, Text(), sep="\n")
            elif not lost:  # told once
                console.print(Text(f"{frame.lost}, trying again"))
            lost = frame.lost


def _console() -> Console:
    if hasattr(sys.stdout, "reconfigure"):  # blocks and bars that an encoding lacks must not end the command
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


async def _on_screen(console: Console, target: str, interval_s: float) -> None:
    """The whole terminal, as it was before in the end."""
    loop, stopped, paused = asyncio.get_running_loop(), asyncio.Event(), False
    frame = Frame(target, None, History())

    def on_key(key: str) -> None:
        nonlocal paused, frame
        if key == "q":
            stopped.set()
        elif key == "p":
            paused = not paused
            frame = replace(frame, paused=paused)
            live.update(Layout(frame), refresh=True)

    async def show() -> None:
        nonlocal frame
        async with Client(target) as client, aclosing(_frames(client, target, interval_s)) as frames:
            async for newer in frames:
                if not paused:
                    frame = newer
                    live.update(Layout(frame), refresh=True)

    # A layout tells the frame how high the terminal is, which Live alone does not.
    with Live(Layout(frame), console=console, screen=True, auto_refresh=False) as live, _keys(on_key):
        live.refresh()
        loop.add_signal_handler(signal.SIGWINCH, live.refresh)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopped.set)
        await until_first(show(), stopped.wait())


@contextmanager
def _keys(on_key: Callable[[str], None]) -> Iterator[None]:
    """Calls on_key with each key that is pressed, where standard input is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        pressed = os.read(terminal, 64).decode(errors="replace")
        if not pressed:  # hung up; it would be readable for ever
            loop.remove_reader(terminal)
        for key in pressed:
            on_key(key)

    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


async def _frames(client: Client, target: str, interval_s: float) -> AsyncGenerator[Frame, None]:
    """One for each status and for each failed attempt to get one; goes on when the server is back."""
    frame, failures = Frame(target, None, History()), 0
    while True:
        try:
            async with aclosing(_updates(client, interval_s)) as updates:
                async for now in updates:
                    failures = 0
                    frame.history.add(now)
                    frame = replace(frame, now=now, heard_at=_time_of_day(), lost="")
                    yield frame
            await asyncio.sleep(interval_s)  # a server that drains ends each watch
            continue
        except (InvalidRequestError, NotImplementedOnServerError):
            raise
        except PenstockError as error:
            cause = error.message.rsplit(": ", 1)[-1]
        except TimeoutError:
            cause = "no answer"
        failures += 1
        frame.history.gap()
        lost = "connection lost" if frame.now is not None else f"cannot reach {target}"
        frame = replace(frame, lost=f"{lost} ({cause})")
        yield frame
        await asyncio.sleep(backoff_s(failures, initial_s=_FIRST_WAIT_S, max_s=_MOST_WAIT_S))


async def _updates(client: Client, interval_s: float) -> AsyncGenerator[Status, None]:
    """The messages of one watch. Raises TimeoutError when none comes for too long, and PenstockError."""
    watch = client.watch_status(interval_ms=round(interval_s * 1e3), include_streams=True)
    async with aclosing(watch):
        while True:
            async with asyncio.timeout(max(_PATIENCE_S, _INTERVALS * interval_s)):
                now = await anext(watch, None)
            if now is None:
                return
            yield now


def _time_of_day() -> str:
    return time.strftime("%H:%M:%S")
