"""The two threads of a worker: the main one reads commands and tokenises, the other runs the model."""

import os
import socket
import threading
import time
import traceback
from concurrent.futures import Future
from functools import partial
from typing import BinaryIO

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from engine.contract import EngineError
from engine.events import Failed
from engine.mlx_worker.batch import Batch
from engine.mlx_worker.model import LoadedModel, load_model
from engine.mlx_worker.prepare import Preparer
from engine.mlx_worker.row import Row
from engine.mlx_worker.step_loop import StepLoop
from engine.mlx_worker.text import DecoderFactory
from engine.mlx_worker.warm_up import warm_up
from engine.options import WorkerOptions
from engine.stop_strings import StopStringMatcher
from engine.wire import (
    Cancel,
    Count,
    Counted,
    Message,
    Pause,
    Ready,
    Resume,
    StartFailed,
    Stop,
    Submit,
    encode_messages,
    read_command,
)

_JOIN_TIMEOUT_S = 5.0


class _Parts:
    """What the main thread needs once the model is loaded."""

    def __init__(self, loaded: LoadedModel, loop: StepLoop, options: WorkerOptions) -> None:
        self.loop = loop
        self.decoders = DecoderFactory(loaded.tokenizer)
        self.preparer = Preparer(loaded.tokenizer, loaded.info, default_max_tokens=options.default_max_tokens)


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
        self._parts: Future[_Parts] = Future()

    def run(self) -> int:
        """Read commands until Stop or the end of the connection. Returns the exit status."""
        model_thread = threading.Thread(target=self._run_model, name="model", daemon=True)
        model_thread.start()
        while (command := read_command(self._source)) is not None and not isinstance(command, Stop):
            if isinstance(command, Submit):
                self._submit(command)
            elif isinstance(command, Count):
                self._count(command)
            elif isinstance(command, Cancel | Pause | Resume):
                self._parts.result().loop.hand_over(command)
        if not self._parts.done():
            os._exit(0)  # Still loading: nothing to tidy up, and loading cannot be interrupted.
        self._parts.result().loop.hand_over(Stop())
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

    def _submit(self, command: Submit) -> None:
        submitted_s = time.monotonic()
        parts = self._parts.result()
        try:
            prepared = parts.preparer.prepare(command.request)
        except EngineError as error:
            self._send([Failed(command.stream, error.reason, error.message, error.field)])
            return
        row = Row(
            stream=command.stream,
            prepared=prepared,
            decoder=parts.decoders.make(prepared.prompt_ids),
            stops=StopStringMatcher(command.request.stopping.stop_strings),
            submitted_s=submitted_s,
        )
        parts.loop.hand_over(row)

    def _count(self, command: Count) -> None:
        try:
            tokens = len(self._parts.result().preparer.tokenise(command.input))
        except EngineError as error:
            self._send([Counted(command.call, 0, error.reason, error.message, error.field)])
        else:
            self._send([Counted(command.call, tokens, None, "", "")])

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

    def _load(self) -> StepLoop | None:
        options = self._options
        try:
            loaded = load_model(options)
            make_generator = partial(
                BatchGenerator,
                loaded.model,
                completion_batch_size=options.max_batch_rows,
                prefill_batch_size=options.prefill_batch_rows,
                prefill_step_size=options.prefill_step_tokens,
            )
            warm_up(make_generator, loaded.info.vocab_size)
        except Exception as error:  # mlx-lm, the hub client and a model's own code raise what they like.
            reason = " ".join(str(error).split()) or type(error).__name__
            self._send([StartFailed(f"cannot load the model {options.model}: {reason}")])
            os._exit(1)
        loop = StepLoop(
            Batch(make_generator, loaded.eos_token_ids),
            self._send,
            max_batch_rows=options.max_batch_rows,
            heartbeat_interval_s=options.heartbeat_interval_s,
        )
        self._parts.set_result(_Parts(loaded, loop, options))
        self._send([Ready(loaded.info, self._cpu_blas)])
        return loop
