"""The threads of a worker: the main one reads commands and tokenises, another runs the model.

Long texts are tokenised in a third one, so that commands about other streams do not wait for them.
"""

import os
import socket
import threading
import traceback
from concurrent.futures import Future
from functools import partial
from typing import BinaryIO

import mlx.core as mx

from engine.mlx_worker.generators import generator_maker
from engine.mlx_worker.intake import Intake
from engine.mlx_worker.long_jobs import LongJobs
from engine.mlx_worker.make_loop import make_step_loop
from engine.mlx_worker.model import load_model
from engine.mlx_worker.start_checks import OptionsError
from engine.mlx_worker.step_loop import StepLoop
from engine.mlx_worker.warm_up import warm_up
from engine.options import WorkerOptions
from engine.startup_objects import freeze_startup_objects
from engine.wire import (
    Cancel,
    Command,
    Count,
    Loading,
    Message,
    Pause,
    PromptPart,
    Ready,
    Resume,
    StartFailed,
    Stop,
    Submit,
    Tokenise,
    Tune,
    encode_messages,
    read_command,
)

_JOIN_TIMEOUT_S = 5.0


class Worker:
    """Serves one connection until it ends."""

    def __init__(
        self, connection: socket.socket, source: BinaryIO, options: WorkerOptions, cpu_blas: str
    ) -> None:
        self._connection = connection
        self._source = source
        self._options = options
        self._cpu_blas = cpu_blas
        self._send_lock = threading.Lock()
        self._jobs = LongJobs()
        # What the main thread needs once the model is loaded.
        self._parts: Future[tuple[StepLoop, Intake]] = Future()

    def run(self) -> int:
        """Read commands until Stop or the end of the connection. Returns the exit status."""
        model_thread = threading.Thread(target=self._run_model, name="model", daemon=True)
        model_thread.start()
        while (command := read_command(self._source)) is not None and not isinstance(command, Stop):
            self._carry_out(command)
        if not self._parts.done():
            os._exit(0)  # Still loading: nothing to tidy up, and loading cannot be interrupted.
        loop, _ = self._parts.result()
        self._jobs.close()
        loop.hand_over(Stop())
        model_thread.join(_JOIN_TIMEOUT_S)
        if model_thread.is_alive():
            os._exit(1)
        return 0

    def _send(self, messages: list[Message]) -> None:
        frame = encode_messages(messages)
        try:
            with self._send_lock:
                self._connection.sendall(frame)
        except OSError:
            pass  # The service is gone; the main thread sees the end of the connection.

    def _carry_out(self, command: Command) -> None:
        loop, intake = self._parts.result()
        match command:
            case Submit():
                self._jobs.run(
                    command.stream, partial(intake.submit, command), long=intake.takes_long(command)
                )
            case PromptPart():
                self._jobs.run(command.stream, partial(intake.add, command), long=intake.takes_long(command))
            case Count():
                # A call is no stream: below zero it meets none.
                self._jobs.run(-command.call, partial(intake.count, command), long=intake.takes_long(command))
            case Tokenise():
                job = partial(intake.tokenise, command)
                self._jobs.run(-command.call, job, long=intake.takes_long(command))
            case Cancel():
                self._jobs.run(command.stream, partial(self._cancel, command), last=True)
            case Pause() | Resume():
                self._jobs.run(command.stream, partial(loop.hand_over, command))
            case Tune():
                loop.hand_over(command)

    def _cancel(self, command: Cancel) -> None:
        loop, intake = self._parts.result()
        intake.forget(command.stream)
        loop.hand_over(command)

    def _run_model(self) -> None:
        """The model thread: everything of MLX is made, used and dropped here."""
        try:
            loop = self._load()
            if loop is not None:
                loop.run()
        except BaseException:
            # A defect of ours. Without this thread the process is useless: end it, to be restarted.
            traceback.print_exc()
            os._exit(1)
        finally:
            # Without it the process can abort at exit.
            mx.clear_streams()

    def _tell_loading(self, stage: str, done: int, total: int) -> None:
        self._send([Loading(stage, done, total)])

    def _load(self) -> StepLoop | None:
        options = self._options
        try:
            loaded = load_model(options, self._tell_loading)
            make_generator = generator_maker(loaded, options)
            self._tell_loading("warm-up", 0, 0)
            step_s = warm_up(make_generator, loaded.info.vocab_size, max_batch_rows=options.max_batch_rows)
        except Exception as error:  # mlx-lm, the hub client and a model's own code raise what they like.
            reason = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, OptionsError):
                reason = f"cannot load the model {options.model}: {reason}"
            self._send([StartFailed(reason)])
            os._exit(1)
        loop = make_step_loop(options, make_generator, self._send)
        intake = Intake(loaded, loop.hand_over, self._send, default_max_tokens=options.default_max_tokens)
        freeze_startup_objects()
        self._parts.set_result((loop, intake))
        self._send([Ready(loaded.info, self._cpu_blas, step_s)])
        return loop
