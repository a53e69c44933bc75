"""A worker process and the connection to it, as seen from the service."""

import asyncio
import socket
import sys
from collections.abc import Sequence

from engine.options import WorkerOptions
from engine.wire import Command, Configure, Message, encode_command, read_messages

WORKER_PROGRAM = (sys.executable, "-m", "engine.mlx_worker")
"""What runs a model. Its last argument is the file descriptor of the connection."""


class WorkerProcess:
    """One process of a worker program. Spawned afresh, never forked: forked threads and locks are broken."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.killed = False
        """Whether it was ended by `kill`."""

    @classmethod
    async def spawn(cls, options: WorkerOptions, program: Sequence[str] = WORKER_PROGRAM) -> "WorkerProcess":
        """Start a process and configure it; it loads the model and then says Ready or StartFailed."""
        ours, theirs = socket.socketpair()
        with theirs:
            # Before the process: nothing is awaited once there is one, so no cancellation leaves it behind.
            reader, writer = await asyncio.open_unix_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    *program, str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            except BaseException:
                writer.close()
                raise
        worker = cls(process, reader, writer)
        worker.send(Configure(options))
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send without waiting. Commands to a process that has ended are dropped."""
        if not self._writer.is_closing():
            self._writer.write(encode_command(command))

    async def receive(self) -> list[Message]:
        """The next frame, or an empty list when the process has closed the connection."""
        try:
            return await read_messages(self._reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return []

    def kill(self) -> None:
        if self._process.returncode is None:
            self.killed = True
            self._process.kill()

    async def exit_status(self, timeout_s: float) -> int | None:
        """The exit status, as `end` gives it; None when the process has not ended within timeout_s."""
        try:
            return await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            return None

    async def end(self, timeout_s: float) -> int:
        """Close the connection, which tells the process to end, and kill it after timeout_s.

        Returns its exit status; negative is the number of the signal that ended it.
        """
        self._writer.close()
        try:
            return await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self.kill()
            return await self._process.wait()
