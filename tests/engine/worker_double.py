"""A worker program without a model: `python -m tests.engine.worker_double FD`, FD its connected socket.

The model option is MODE or MODE:FILE. FILE gets a line for each life, but in `loads until`; the modes:
  works               streams run
  loads until         the same, once it has told how far the loading is and has read the named pipe FILE
  first life only     later lives end before they are ready
  barren              it is ready, and ends

Words in a prompt do something: `poison` ends the process, `sticks` gives no token, `mute` is never
tokenised, `bad` cannot be. The n-th token of a stream has the id n; stop_string names the kind of input.
"""

import select
import socket
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.contract import NO_COUNTERS, ModelInfo
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
    encode_messages,
    read_command,
)
from flowcontrol.reasons import Reason

_STEP_S = 0.002
_MODEL = ModelInfo("double", "double", "double", 0, 1024, 4096, True, "double", 0.0)


def text_of(model_input: ModelInput) -> str:
    return model_input.text if isinstance(model_input, TextInput) else ""


def finished(stream: int, request: GenerationRequest, tokens: int) -> Finished:
    return Finished(
        stream=stream,
        reason=FinishReason.LENGTH,
        text="",
        stop_string=type(request.input).__name__,
        stop_token_id=None,
        prompt_tokens=1,
        completion_tokens=tokens,
        cached_tokens=0,
        queue_s=0.0,
        tokenise_s=0.0,
        cache_lookup_s=0.0,
        prefill_s=0.0,
        decode_s=0.0,
    )


@dataclass
class Double:
    connection: socket.socket
    streams: dict[int, tuple[GenerationRequest, int]] = field(default_factory=dict)
    """Each with its number of tokens so far."""
    paused: set[int] = field(default_factory=set)

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

    def step(self) -> bool:
        """One token of every stream. False when one of them ends the process."""
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
                messages.append(finished(stream, request, tokens + 1))
                del self.streams[stream]
        self.send(*messages, Heartbeat(replace(NO_COUNTERS, running_rows=len(self.streams))))
        return True


def main() -> int:
    connection = socket.socket(fileno=int(sys.argv[1]))
    # Unbuffered: what select does not see must not be hidden in a buffer.
    source = connection.makefile("rb", buffering=0)
    first = read_command(source)  # type: ignore[arg-type]
    assert isinstance(first, Configure)
    mode, _, file = first.options.model.partition(":")
    lives = 1
    if file and mode != "loads until":
        with Path(file).open("a", encoding="ascii") as log:
            log.write("life\n")
        lives = len(Path(file).read_text(encoding="ascii").splitlines())
    if mode == "first life only" and lives > 1:
        return 3
    double = Double(connection)
    if mode == "loads until":
        double.send(Loading("weights", 1, 2))
        double.send(Loading("weights", 2, 2))
        Path(file).read_bytes()
    double.send(Ready(_MODEL, "", 0.0))
    while mode != "barren":
        if select.select([connection], [], [], _STEP_S)[0]:
            command = read_command(source)  # type: ignore[arg-type]
            if command is None or isinstance(command, Stop):
                return 0
            double.take(command)
        elif not double.step():
            return 5
    return 4


if __name__ == "__main__":
    sys.exit(main())
