"""What the commands that talk to a server share: running, error lines, exit codes, times, JSON lines."""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from penstock.channel import DEFAULT_TARGET, TARGET_VARIABLE
from penstock.errors import (
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    PenstockError,
    UnavailableError,
)
from penstock.retry import Retry

TargetOption = Annotated[str, typer.Option(envvar=TARGET_VARIABLE, help="The server's HOST:PORT.")]
TARGET = DEFAULT_TARGET

EXIT_OTHER = 1
EXIT_INVALID = 2
EXIT_UNAVAILABLE = 3
EXIT_DEADLINE = 4
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT
EXIT_BROKEN_PIPE = 141  # as a shell reports SIGPIPE


def run_command(
    main: Callable[[], Coroutine[Any, Any, None]],
    target: str,
    *,
    as_json: bool = False,
    on_interrupt: str = "cancelled",
    interrupted: int = EXIT_INTERRUPTED,
) -> None:
    """Runs a command to its end and turns its failure into one line and an exit code, by typer.Exit.

    Ctrl-C cancels the coroutine, and with it its calls, prints on_interrupt on standard error and ends with
    the status `interrupted`.
    """
    try:
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            if on_interrupt:
                print(on_interrupt, file=sys.stderr)
            raise typer.Exit(interrupted) from None
        except PenstockError as error:
            if as_json:
                print(json.dumps({"error": error_object(error)}, ensure_ascii=False), flush=True)
            else:
                print(f"penstock: {error_line(error, target)}", file=sys.stderr)
            raise typer.Exit(exit_code(error)) from None
    except BrokenPipeError:
        # The reader of standard output is gone; the interpreter's own flush at exit must not fail on it too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_BROKEN_PIPE) from None


def exit_code(error: PenstockError) -> int:
    """2: invalid request; 3: unavailable or overloaded; 4: deadline; 1: anything else."""
    if isinstance(error, InvalidRequestError):
        return EXIT_INVALID
    if isinstance(error, UnavailableError | OverloadedError):
        return EXIT_UNAVAILABLE
    return EXIT_DEADLINE if isinstance(error, DeadlineError) else EXIT_OTHER


def error_line(error: PenstockError, target: str) -> str:
    """One line for a person."""
    if isinstance(error, UnavailableError) and not error.reason:
        cause = error.message.rsplit(": ", 1)[-1]
        if error.request_id:  # known once the server has accepted the stream
            return f"lost the connection to {target}: {cause}"
        return f"cannot reach {target}: {cause}; is the server running? (make serve)"
    if error.retry_after_s is not None:
        return f"{error}; try again in {error.retry_after_s:.3g} s"
    return str(error)


def retry_line(retry: Retry) -> str:
    """One line for a person whose stream goes on after a failure."""
    error = retry.error
    if isinstance(error, UnavailableError) and not error.reason:
        if not error.request_id:
            return "cannot reach the server, trying again"
        return f"connection lost, resuming at token {retry.tokens_received}"
    return f"{error}; resuming at token {retry.tokens_received}"


def error_object(error: PenstockError) -> dict[str, Any]:
    """The error for a program."""
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "retry_after_s": error.retry_after_s,
        "violations": [{"field": field, "description": text} for field, text in error.violations],
        "request_id": error.request_id,
    }


def json_line(message: Message, *, zeros: bool = False) -> str:
    """A message as protobuf JSON on one line, named as in the .proto file; zeros: also fields at zero."""
    fields = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=zeros
    )
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def duration(duration_s: float) -> str:
    """A time for a person, in its two largest units, such as "2 h 5 min"."""
    minutes, seconds = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])


def count(number: int) -> str:
    """A number for a person, such as "1.2 M"."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def size(number_bytes: int) -> str:
    """Bytes for a person, such as "1.5 GiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number_bytes >= size:
            return f"{number_bytes / size:.1f} {unit}"
    return f"{number_bytes} B"
