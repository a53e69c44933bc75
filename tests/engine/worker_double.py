"""A worker program without a model: `python -m tests.engine.worker_double FD`, FD its connected socket.

The model option is MODE or MODE:FILE. FILE gets a line for each life in `works`, `barren` and
`first life only`; the modes:
  works               streams run
  loads until         the same, once it has told how far the loading is and has read the named pipe FILE
  first life only     later lives end before they are ready
  barren              it is ready, and ends
  paced               streams run; FILE is a directory, where `pace` says how long steps take

Words in a prompt do something: `poison` ends the process, `sticks` gives no token, `mute` is never
tokenised, `bad` cannot be. The n-th token of a stream has the id n; of its end stop_string names the kind of
input and cached_tokens is prefill_step_tokens. Each stream that ends leaves PREFIX_BYTES in the prefix cache.
"""

import os
import select
import socket
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.contract import NO_COUNTERS, EngineCounters, ModelInfo
from engine.events import Finished, FinishReason, Prefill, Token
from engine.requests import GenerationRequest, ModelInput, TextInput
from engine.wire import (
    Cancel,
    Command,
    Configure,
    Count,
    Counted,
    Heartbeat,
    Loading,
    Message,
    Pause,
    Ready,
    Resume,
    Stop,
    Submit,
    Tokenise,
    Tokenised,
    Tune,
    encode_messages,
    read_command,
)
from flowcontrol.reasons import Reason

PREFIX_BYTES = 1000
STEP_S = 0.002
"""The time of a step of a process that was given no pace."""
ALL = "all"
_MODEL = ModelInfo("double", "double", "double", 0, 1024, 4096, True, "double", 0.0)


def pace(directory: Path, which: int | str, step_s: float) -> None:
    """Have a process in the mode `paced:DIRECTORY` take so long for each step, from the next one on.

    which: its id, or ALL for those that are given no pace of their own.
    """
    changed = directory / f".{which}"
    changed.write_text(str(step_s), encoding="ascii")
    changed.replace(directory / str(which))  # At once, so that no half of it is read.


def text_of(model_input: ModelInput) -> str:
    return model_input.text if isinstance(model_input, TextInput) else ""


def finished(stream: int, request: GenerationRequest, tokens: int, step_tokens: int) -> Finished:
    return Finished(
        stream=stream,
        reason=FinishReason.LENGTH,
        text="",
        stop_string=type(request.input).__name__,
        stop_token_id=None,
        prompt_tokens=1,
        completion_tokens=tokens,
        cached_tokens=step_tokens,
        queue_s=0.0,
        tokenise_s=0.0,
        cache_lookup_s=0.0,
        prefill_s=0.0,
        decode_s=0.0,
    )


@dataclass
class Double:
    connection: socket.socket
    tuning: Tune
    paces: Path | None = None
    """Where `pace` writes."""
    streams: dict[int, tuple[GenerationRequest, int]] = field(default_factory=dict)
    """Each with its number of tokens so far."""
    paused: set[int] = field(default_factory=set)
    counters: EngineCounters = NO_COUNTERS

    @property
    def step_s(self) -> float:
        """The time of the next step."""
        files = [self.paces / str(os.getpid()), self.paces / ALL] if self.paces is not None else []
        return next((float(file.read_text(encoding="ascii")) for file in files if file.exists()), STEP_S)

    def send(self, *messages: Message) -> None:
        self.connection.sendall(encode_messages(list(messages)))

    def take(self, command: Command) -> None:
        match command:
            case Submit(stream=stream, request=request):
                self.streams[stream] = (request, len(request.resume_ids))
                self.send(Prefill(stream, 0, 1, 1))
            case Cancel():
                self.streams.pop(command.stream, None)
            case Pause():
                self.paused.add(command.stream)
            case Resume():
                self.paused.discard(command.stream)
            case Count():
                self.send(Counted(command.call, 1, None, "", ""))
            case Tokenise(call=call, request=request):
                text = text_of(request.input)
                if "bad" in text:
                    self.send(Tokenised(call, (), 0.0, Reason.INVALID_REQUEST, "prompt: bad", "prompt"))
                elif "mute" not in text:
                    self.send(Tokenised(call, (1, 2, 3), 0.5, None, "", ""))

            case Tune():
                self.tuning = command
                self.count(prefix_cache_bytes=self.counters.prefix_cache_bytes)

    def count(self, **changes: float) -> None:
        """Change counters; the prefix cache gives up what is beyond its budget."""
        self.counters = replace(self.counters, **changes)  # type: ignore[arg-type]
        kept = min(self.counters.prefix_cache_bytes, self.tuning.max_prefix_cache_bytes)
        self.counters = replace(self.counters, prefix_cache_bytes=kept)

    def step(self, took_s: float) -> bool:
        """One token of every stream, in so many seconds. False when one of them ends the process."""
        counters = self.counters
        messages: list[Message] = []
        for stream, (request, tokens) in list(self.streams.items()):
            text = text_of(request.input)
            if "poison" in text:
                return False
            if "sticks" in text or stream in self.paused:
                continue
            messages.append(Token(stream, tokens + 1, "x", None))
            self.streams[stream] = (request, tokens + 1)
            if tokens + 1 == request.stopping.max_tokens:
                messages.append(finished(stream, request, tokens + 1, self.tuning.prefill_step_tokens))
                del self.streams[stream]
                self.count(prefix_cache_bytes=self.counters.prefix_cache_bytes + PREFIX_BYTES)
        given = sum(isinstance(message, Token) for message in messages)
        self.count(
            running_rows=len(self.streams),
            decode_steps=counters.decode_steps + (given > 0),
            generated_tokens=counters.generated_tokens + given,
            step_s=counters.step_s + (took_s if given else 0.0),
        )
        self.send(*messages, Heartbeat(self.counters))
        return True


def main() -> int:
    connection = socket.socket(fileno=int(sys.argv[1]))
    # Unbuffered: what select does not see must not be hidden in a buffer.
    source = connection.makefile("rb", buffering=0)
    first = read_command(source)  # type: ignore[arg-type]
    assert isinstance(first, Configure)
    mode, _, file = first.options.model.partition(":")
    lives = 1
    if file and mode not in ("loads until", "paced"):
        with Path(file).open("a", encoding="ascii") as log:
            log.write("life\n")
        lives = len(Path(file).read_text(encoding="ascii").splitlines())
    if mode == "first life only" and lives > 1:
        return 3
    tuning = Tune(
        first.options.prefill_step_tokens,
        first.options.max_prefix_cache_bytes,
        first.options.max_parked_kv_bytes,
    )
    double = Double(connection, tuning, Path(file) if mode == "paced" else None)
    if mode == "loads until":
        double.send(Loading("weights", 1, 2))
        double.send(Loading("weights", 2, 2))
        Path(file).read_bytes()
    double.send(Ready(_MODEL, "", 0.0))
    began_s = time.monotonic()
    while mode != "barren":
        left_s = began_s + double.step_s - time.monotonic()
        if select.select([connection], [], [], max(0.0, left_s))[0]:
            command = read_command(source)  # type: ignore[arg-type]
            if command is None or isinstance(command, Stop):
                return 0
            double.take(command)
        else:
            now_s = time.monotonic()
            if not double.step(now_s - began_s):
                return 5
            began_s = now_s
    return 4


if __name__ == "__main__":
    sys.exit(main())
