"""The commands that talk to a server, run as processes."""

import asyncio
import os
import sys
from dataclasses import dataclass

# A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import typer
from service import cli_canary, cli_generate, cli_limits, cli_models, cli_status, cli_top
app = typer.Typer()
app.command("generate")(cli_generate.generate)
app.command("limits")(cli_limits.limits)
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_canary.app, name="canary")
app.command("status")(cli_status.status)
app.command("top")(cli_top.top)
app()
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Penstock:
    """Starts the commands against one server. variables: of their environment, besides the target."""

    target: str
    variables: tuple[tuple[str, str], ...] = ()

    async def start(
        self,
        *arguments: str,
        stdout: int = asyncio.subprocess.PIPE,
        stderr: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env={
                **os.environ,
                "PENSTOCK_TARGET": self.target,
                "COLUMNS": "80",
                "TERM": "dumb",
                **dict(self.variables),
            },
        )

    async def __call__(self, *arguments: str, text: str = "") -> Result:
        process = await self.start(*arguments)
        out, err = await process.communicate(text.encode())
        assert process.returncode is not None
        return Result(process.returncode, out.decode(), err.decode())
