"""`penstock generate`: stream an answer to the terminal."""

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from penstock import Client, CreditStats, GenerateOptions, InvalidRequestError, Prompt, Retry, Stream
from penstock.v1.generation_pb2 import Accepted, Finished, Progress
from service.terminal import TARGET, TargetOption, json_line, retry_line, run_command

# Of a terminal: from the cursor to the end of the line.
_CLEAR = "\x1b[K"
_RETRIES = 20
"""With --resume: minutes without a server, by the client's back-off."""


@dataclass(frozen=True)
class Generation:
    """A finished stream. first_chunk_s, last_chunk_s: seconds from the call to those chunks, by our clock.

    resumes: how often it was continued on a new call.
    """

    text: str
    accepted: Accepted
    finished: Finished
    credit: CreditStats
    first_chunk_s: float
    last_chunk_s: float
    resumes: int

    @property
    def tokens_per_s(self) -> float:
        """Tokens after the first, by the time they took to arrive; 0 for fewer than two."""
        decode_s = self.last_chunk_s - self.first_chunk_s
        tokens = self.finished.usage.completion_tokens - 1
        return tokens / decode_s if decode_s > 0 and tokens > 0 else 0.0

    def summary(self) -> str:
        """One line of numbers."""
        usage, credit = self.finished.usage, self.credit
        cached = f" ({usage.cached_prompt_tokens} cached)" if usage.cached_prompt_tokens else ""
        resumes = f", resumes {self.resumes}" if self.resumes else ""
        return (
            f"{usage.prompt_tokens} prompt tokens{cached}, {usage.completion_tokens} tokens, "
            f"TTFT {self.first_chunk_s * 1000:.0f} ms, {self.tokens_per_s:.1f} tokens/s, "
            f"acks {credit.acks_sent}, window {credit.window}, lowest credit {credit.lowest_credit}{resumes}"
        )

    def stages(self) -> str:
        """One line of where the server's time to the first token went, in milliseconds."""
        timing = self.finished.timing
        stages = {
            "admission": timing.admission_ms,
            "queue": timing.queue_ms,
            "tokenise": timing.tokenise_ms,
            "cache lookup": timing.cache_lookup_ms,
            "prefill": timing.prefill_ms,
            "first token": timing.first_token_ms,
        }
        return "server ms: " + ", ".join(f"{name} {time_ms:.1f}" for name, time_ms in stages.items())


async def stream_to_terminal(stream: Stream, *, prompt: str = "", as_json: bool = False) -> Generation:
    """Prints the text of a stream on standard output as it arrives, then a newline; returns the whole.

    prompt is shown dimmed before the text when standard output is a terminal. as_json prints every message
    as a JSON line instead. Raises PenstockError as the stream does, BrokenPipeError when the reader is gone.
    """
    begun_s = time.monotonic()
    first_s = last_s = 0.0
    tail = waiting = ""
    if prompt and not as_json and sys.stdout.isatty():
        tail = prompt
        print(typer.style(prompt, dim=True), end="", flush=True)
    try:
        async for event in stream.events():
            if event.HasField("chunk"):
                last_s = time.monotonic() - begun_s
                first_s = first_s or last_s
            if as_json:
                print(json_line(event), flush=True)
            elif event.progress.queue_position and sys.stderr.isatty():
                waiting = _waiting_line(event.progress)
                print(_CLEAR + waiting, end="\r", file=sys.stderr, flush=True)
            elif event.chunk.text:
                if waiting:
                    waiting = ""
                    print(_CLEAR, end="", file=sys.stderr, flush=True)
                tail = event.chunk.text
                print(tail, end="", flush=True)
    finally:
        if tail and not tail.endswith("\n"):
            print(flush=True)
    return Generation(
        stream.text, stream.accepted, stream.finished, stream.credit, first_s, last_s, stream.resumes
    )


def _waiting_line(progress: Progress) -> str:
    """The place in the queue."""
    wait_s = progress.estimated_wait_ms / 1000
    about = f", about {wait_s:.0f} s" if wait_s >= 1 else ""
    return typer.style(f"waiting, {progress.queue_position} in line{about}", dim=True)


class RetryLines:
    """Says on standard error, in one line, that a stream is resumed; once for failures that look alike."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, retry: Retry) -> None:
        line = retry_line(retry)
        if line != self._last:
            # On a terminal the text so far is in the same line.
            print(("\n" if sys.stderr.isatty() else "") + f"penstock: {line}", file=sys.stderr, flush=True)
        self._last = line


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(help='Text to continue; "-" reads it from standard input.', show_default=False),
    ] = None,
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help='Read the prompt from a file; "-" is standard input.')
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Randomness; 0 is none.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep tokens up to this total probability.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep this many most likely tokens.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Least likelihood, by the top token.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats an output.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the output; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on past end-of-text.")] = False,
    logprobs: Annotated[int | None, typer.Option(help="Log-probabilities of N tokens; see --json.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a chat message.")] = False,
    system: Annotated[str | None, typer.Option(help="System message; implies --chat.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for the whole answer.")] = None,
    priority: Annotated[str | None, typer.Option(help="bulk, default, interactive or system.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose request it is.")] = None,
    cache_salt: Annotated[str | None, typer.Option(help="Share cached prompts only with this salt.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on when the connection is lost.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event and line.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print numbers on standard error.")] = False,
    target: TargetOption = TARGET,
) -> None:
    """Continue a text, streamed as it is generated."""
    options: GenerateOptions = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "seed": seed,
        "stop": stop,
        "ignore_eos": ignore_eos or None,
        "logprobs": logprobs,
        "model": model,
        "priority": priority,
        "cache_salt": cache_salt,
        "timeout_s": timeout,
        "retries": _RETRIES if resume else None,
        "on_retry": RetryLines(),
    }
    _check_input(prompt, prompt_file)

    async def answer() -> None:
        request = _prompt(_text(prompt, prompt_file), chat=chat, system=system)
        async with Client(target, tenant=tenant) as client:
            stream = client.generate(request, **options)
            shown = request if isinstance(request, str) and prompt_file is None else ""
            generation = await stream_to_terminal(stream, prompt=shown, as_json=as_json)
        if stats:
            print(f"{generation.summary()}\n{generation.stages()}", file=sys.stderr)

    run_command(answer, target, as_json=as_json)


def _check_input(prompt: str | None, prompt_file: str | None) -> None:
    if (prompt is None) == (prompt_file is None):
        raise typer.BadParameter("give either PROMPT or --prompt-file")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character


def _prompt(text: str, *, chat: bool, system: str | None) -> Prompt:
    if system is not None:
        return [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return [{"role": "user", "content": text}] if chat else text


def _text(prompt: str | None, file: str | None) -> str:
    """The prompt, as it is, or what is in a file or on standard input."""
    if prompt == "-" or file == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    if file is None:
        return prompt or ""
    try:
        return _decoded(Path(file).read_bytes(), file)
    except OSError as error:
        raise InvalidRequestError(f"{file}: {error.strerror or error}") from None


def _decoded(encoded: bytes, source: str) -> str:
    """Text without its last newline, which `echo`, here-documents and editors add."""
    try:
        return encoded.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{source} is not UTF-8 text") from None
