"""A Stream over a scripted engine: the test makes the steps, turns the clock and is the writer."""

from dataclasses import replace
from typing import Any

from engine.scripted import Script, ScriptedEngine, counting_script
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.governor import Governor
from flowcontrol.pool import Lease
from flowcontrol.registry import StreamRegistry
from flowcontrol.stream_state import State
from penstock.v1 import generation_pb2 as pb
from service.admission import Admission
from service.observation import UNOBSERVED, StreamObserver
from service.options import AdmissionOptions, StreamOptions
from service.responses import ChunkMessage
from service.start_message import read_start
from service.stream import Stream
from tests.flowcontrol.admission.governors import governor_options
from tests.service.calls import Answer

OPTIONS = StreamOptions(
    default_timeout_s=300.0,
    enforce_credits=True,
    max_unacked_chunks=100,
    ack_timeout_s=5.0,
    max_tokens_per_chunk=16,
    max_backlog_tokens=64,
    min_tokens_per_chunk=1,
    slow_consumer_threshold_s=1.0,
    idle_timeout_s=10.0,
    max_prompt_bytes=2**20,
    request_chunk_bytes=2**15,
    response_chunk_bytes=2**15,
    log_prompts=False,
)

ADMISSION = AdmissionOptions(default_class=ServiceClass.DEFAULT, default_max_tokens=64, remote_control=False)
START_S = 1000.0


class Clock:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s


def scripted_engine(script: Script = counting_script, *, step_s: float | None = None) -> ScriptedEngine:
    return ScriptedEngine(script, step_s=step_s)


def counted(tokens: int) -> str:
    """What counting_script answers in so many tokens."""
    return "".join(f" {number}" for number in range(1, tokens + 1))


class StreamDriver:
    """One stream, submitted and accepted. `answer` checks every message that is written."""

    def __init__(
        self,
        engine: ScriptedEngine,
        flow: dict[str, int] | None = None,
        *,
        options: Any = None,
        lease: Lease[ChunkMessage] | None = None,
        observer: StreamObserver = UNOBSERVED,
        coalesce: bool = True,
        **start: Any,
    ) -> None:
        """flow: of the start message. options: fields of StreamOptions to change."""
        self.engine = engine
        self.clock = Clock()
        self.registry = StreamRegistry()
        place = self.registry.admit()
        if not {"tokens", "chat", "prompt_parts"} & start.keys():
            start.setdefault("prompt", "one two three")
        message = pb.Start(**{"flow": flow or {}, **start})
        self.governor = Governor(governor_options(initial_streams=4), now_s=START_S, chance=lambda: 0.5)
        admission = Admission(self.governor, engine, ADMISSION, self.clock)
        checked = read_start(message)
        seat = admission.ask(checked, "", None)
        self.stream = Stream(
            engine,
            place,
            seat,
            checked,
            replace(OPTIONS, **(options or {})),
            self.clock,
            lease,
            observer,
            coalesce=coalesce,
        )
        self.deadline_s: float | None = None
        self.stream.watch(self._rearm)
        self.answer = Answer()
        self.stream.begin()
        model = engine.snapshot().model
        assert model is not None
        self.answer.take(self.stream.accepted(model))

    def step(self, times: int = 1) -> None:
        """Decode steps during which the writer does nothing."""
        for _ in range(times):
            self.engine.step()

    def write(self) -> pb.GenerateResponse | None:
        """One turn of the writer. Raises ServiceError when the stream ends with an error."""
        message = self.stream.next_message()
        if message is not None:
            self.answer.take(message)
        return message

    def write_all(self) -> list[pb.GenerateResponse]:
        """Turns of the writer until there is nothing to write."""
        written = []
        while not self.stream.ended and (message := self.write()) is not None:
            written.append(message)
        return written

    def run(self, steps: int) -> None:
        """Steps with a writer that keeps up."""
        for _ in range(steps):
            self.step()
            self.write_all()

    def _rearm(self, deadline_s: float | None) -> None:
        self.deadline_s = deadline_s

    @property
    def ack_timeout_s(self) -> float | None:
        """Seconds until the next deadline, None when that is the end that every stream has."""
        assert self.deadline_s is not None
        left_s = self.deadline_s - self.clock.now_s
        return None if self.deadline_s == START_S + OPTIONS.default_timeout_s else max(0.0, left_s)

    def ack_all(self) -> None:
        self.stream.take_ack(len(self.answer.chunks))

    @property
    def sizes(self) -> list[int]:
        """Tokens in each chunk."""
        return [len(chunk.token_ids) for chunk in self.answer.chunks]

    @property
    def paused(self) -> bool:
        return self.engine.snapshot().counters.paused_rows > 0

    @property
    def running(self) -> bool:
        return self.engine.snapshot().counters.running_rows > 0

    def in_state(self, state: State) -> bool:
        snapshot = self.registry.snapshot()
        return (snapshot.ended_by_state if state.ended else snapshot.active_by_state)[state] == 1
