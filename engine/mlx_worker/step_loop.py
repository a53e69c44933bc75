"""The model thread: takes orders, makes decode steps, tells what came of them."""

import queue
import time
from collections import deque
from collections.abc import Callable

from engine.events import Failed, FinishReason, Prefill, Token
from engine.mlx_worker.batch import Batch
from engine.mlx_worker.first_tokens import FirstTokens
from engine.mlx_worker.generator import PromptProgress, StepToken
from engine.mlx_worker.loop_counters import loop_counters
from engine.mlx_worker.loop_times import LoopTimes
from engine.mlx_worker.row import Row
from engine.mlx_worker.row_prefixes import RowPrefixes
from engine.wire import Cancel, Heartbeat, Message, Pause, Resume, Stop, Tune
from flowcontrol.parking import ParkingLot
from flowcontrol.prefill_slice import PrefillSlice
from flowcontrol.reasons import Reason

Order = Row | Cancel | Pause | Resume | Tune | Stop
"""What the main thread hands over: a row to run, or a command about one or about all."""
Send = Callable[[list[Message]], None]

# Below that the generator has no slice to compute: the last token is left to the first decode step.
_MIN_OPEN_TOKENS = 2
# Steps that may fail in a row, with no token in between, before every row is given up.
_MAX_FAILED_STEPS = 3


class StepLoop:
    """Decodes all rows together. Everything here but `hand_over` runs in the model thread."""

    def __init__(
        self,
        batch: Batch,
        send: Send,
        *,
        parking: ParkingLot[Row],
        prefixes: RowPrefixes,
        slices: PrefillSlice,
        first_tokens: FirstTokens,
        max_batch_rows: int,
        heartbeat_interval_s: float,
        idle_sleep_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """parking: the budget; in it is every row that has a parked cache, until it is in the batch again.

        idle_sleep_s: as in WorkerOptions.
        """
        self._batch = batch
        self._send = send
        self._parking = parking
        self._prefixes = prefixes
        self._slices = slices
        self._first_tokens = first_tokens
        self._clock = clock
        self._max_batch_rows = max_batch_rows
        self._heartbeat_interval_s = heartbeat_interval_s
        self._idle_sleep_s = idle_sleep_s
        self._orders: queue.SimpleQueue[tuple[Order, int]] = queue.SimpleQueue()
        self._rows: dict[int, Row] = {}
        self._waiting: deque[Row] = deque()
        # Finished, but in the batch until their end was told.
        self._ended: list[Row] = []
        self._messages: list[Message] = []
        self._times = LoopTimes()
        self._failed_steps = 0
        self._last_heartbeat_s = 0.0
        self._woken_s = 0.0

    def hand_over(self, order: Order) -> None:
        """Give the loop something to do. May be called from any thread."""
        self._orders.put((order, self._times.steps))

    def run(self) -> None:
        """Work until a Stop order."""
        while self._take_orders():
            self._fill_batch()
            model_s = self._step() if len(self._batch) else None
            self._flush()
            copies_s = self._let_go()
            now_s = self._clock()
            for row in self._parking.expired(now_s):
                row.parked = None
            if self._prefixes.bounded:
                self._prefixes.give_way(self._batch.kv_bytes + self._parking.snapshot().bytes)
            if now_s - self._last_heartbeat_s >= self._heartbeat_interval_s:
                self._last_heartbeat_s = now_s
                counters = loop_counters(
                    self._rows.values(),
                    self._batch,
                    self._parking.snapshot(),
                    self._prefixes,
                    self._times,
                    self._first_tokens,
                )
                self._messages.append(Heartbeat(counters))
                self._flush()
            if model_s is not None:
                self._times.turn(self._clock() - self._woken_s, model_s + copies_s)

    def _flush(self) -> None:
        if self._messages:
            messages, self._messages = self._messages, []
            self._send(messages)

    def _let_go(self) -> float:
        """Take the rows that have finished out of the batch, now that their ends are told: copies take time.

        Returns the seconds of it, which are MLX's.
        """
        if not self._ended:
            return 0.0
        began_s = self._clock()
        for row in self._ended:
            self._prefixes.keep_end(row, self._batch)
            self._batch.remove(row)
        self._ended.clear()
        return self._clock() - began_s

    def _take_orders(self) -> bool:
        """Carry out every order that waits; wait for one when there is nothing else to do. False on Stop."""
        idle = not len(self._batch) and not self._waiting
        self._woken_s = self._clock()
        try:
            if idle:
                order, at_step = self._orders.get(timeout=self._heartbeat_interval_s)
                self._woken_s = self._clock()
                more_until_s = self._woken_s + self._idle_sleep_s
            else:
                order, at_step = self._orders.get_nowait()
                more_until_s = 0.0
            while not isinstance(order, Stop):
                self._carry_out(order, at_step)
                order, at_step = self._next_order(more_until_s)
        except queue.Empty:
            return True
        return False

    def _next_order(self, more_until_s: float) -> tuple[Order, int]:
        """The next order, for which rows that could begin wait until then. Raises queue.Empty."""
        now_s = self._clock()
        if more_until_s <= now_s or not 0 < len(self._waiting) < self._max_batch_rows:
            return self._orders.get_nowait()
        try:
            return self._orders.get(timeout=more_until_s - now_s)
        finally:
            self._woken_s += self._clock() - now_s  # Waiting is no part of the turn.

    def _carry_out(self, order: Row | Cancel | Pause | Resume | Tune, at_step: int) -> None:
        if isinstance(order, Row):
            self._take_up(order)
            return
        if isinstance(order, Tune):
            self._slices.resize(order.prefill_step_tokens)
            for evicted in self._parking.resize(order.max_parked_kv_bytes):
                evicted.parked = None
            self._prefixes.resize(order.max_prefix_cache_bytes)
            return
        row = self._rows.get(order.stream)
        if row is None:
            return
        if isinstance(order, Cancel):
            self._prefixes.keep_end(row, self._batch)
            self._drop(row)
            self._times.cancelled(at_step)
        elif isinstance(order, Pause):
            row.paused = True
            # A row whose prompt is being computed is parked with its first token.
            if row.first_token_s is not None:
                self._park(row)
        elif row.paused:
            row.paused = False
            if row.uid is None and row not in self._waiting and self._has_work(row):
                self._waiting.appendleft(row)

    def _take_up(self, row: Row) -> None:
        """Queue a new row, or one whose prompt has grown since it was handed over as another."""
        shorter = self._rows.get(row.stream)
        if row.supersedes:
            if shorter is None:
                return  # It has failed in the meantime.
            self._supersede(shorter, row)
        else:
            self._rows[row.stream] = row
            if self._has_work(row):
                self._look_up(row)
                self._guess(row)
                self._waiting.append(row)

    def _look_up(self, row: Row) -> None:
        if self._prefixes.look_up(row):
            self._parking.leave(row)  # What it had there is covered.

    def _guess(self, row: Row) -> None:
        """Send the first token at once where it is known."""
        row.first_key = self._first_tokens.key_of(row)
        guess = self._first_tokens.recall(row.first_key) if row.first_key is not None else None
        if guess is not None:
            self._messages.append(Token(row.stream, guess, row.guess_token(guess), None))
            self._flush()  # The step that comes may take long.

    def _supersede(self, shorter: Row, row: Row) -> None:
        was_in_batch = shorter.uid is not None
        self._batch.park(shorter)
        self._parking.leave(shorter)
        row.go_on_from(shorter)
        self._keep_parked(row)
        self._rows[row.stream] = row
        if shorter in self._waiting:
            self._waiting[self._waiting.index(shorter)] = row
        elif was_in_batch:
            self._waiting.appendleft(row)
        elif self._has_work(row):
            self._waiting.append(row)

    @staticmethod
    def _has_work(row: Row) -> bool:
        """Whether the model has anything to compute for a row that is not in the batch."""
        return row.whole or row.uncovered_tokens >= _MIN_OPEN_TOKENS

    def _park(self, row: Row) -> None:
        """Take a row out of the batch and keep its KV cache as far as the budget goes."""
        if row.uid is not None:
            self._batch.park(row)
            self._keep_parked(row)

    def _keep_parked(self, row: Row) -> None:
        if row.parked is not None:
            for evicted in self._parking.park(row, row.parked.nbytes, self._clock()):
                evicted.parked = None

    def _drop(self, row: Row) -> None:
        """Forget a row, wherever it is."""
        self._batch.remove(row)
        self._parking.leave(row)
        del self._rows[row.stream]
        if row in self._waiting:
            self._waiting.remove(row)

    def _fill_batch(self) -> None:
        """Move waiting rows into the batch while there is room, oldest first."""
        moved = False
        while self._waiting and len(self._batch) < self._max_batch_rows:
            row = self._waiting.popleft()
            moved = True
            if row.paused:
                continue  # Resume puts it back.
            self._look_up(row)
            if row.covered_tokens > row.prefill_done:
                self._tell(row, 0, row.covered_tokens)
            if self._has_work(row):
                self._insert(row)
            else:
                self._keep_parked(row)  # All that is known of an open prompt was found.
        if moved or self._waiting:
            self._tell_positions()

    def _insert(self, row: Row) -> None:
        try:
            self._batch.insert(row)
        except Exception as error:  # Nothing was inserted, so the other rows are not concerned.
            self._fail(row, error)
            return
        self._parking.leave(row)
        row.slice_done, row.decoded = 0, False
        self._prefixes.inserted(row)

    def _tell_positions(self) -> None:
        for position, row in enumerate(self._waiting, start=1):
            if row.queue_position != position:
                row.queue_position = position
                self._tell(row, position, max(row.prefill_done, row.covered_tokens))

    def _tell(self, row: Row, position: int, done: int) -> None:
        """Tell how far a row is, before its first token."""
        if row.first_token_s is None and row.guess is None:
            row.prefill_done = done
            self._messages.append(Prefill(row.stream, position, done, len(row.tokens)))

    def _step(self) -> float:
        """One step of the batch. Returns the seconds of it that were spent in MLX."""
        decoding = any(row.decoded for row in self._batch.rows)
        began_s = self._clock()
        try:
            step = self._batch.next(self._slices.tokens(decoding=decoding))
        except Exception as error:  # Any exception means that the generator is not to be trusted.
            self._recover(error)
            return self._clock() - began_s
        now_s = self._clock()
        computed = sum(self._take_progress(progress, began_s) for progress in step.prompts)
        self._slices.computed(computed, step.prefill_s)
        self._times.prefill_s += step.prefill_s
        if step.tokens:
            self._failed_steps = 0
            self._times.tokens(now_s, decoding=decoding)
        for token in step.tokens:
            row = self._batch.find(token.uid)
            # Of several tokens of one row, those after its end or its parking are dropped.
            if row is not None and row.stream in self._rows:
                self._times.generated_tokens += 1
                self._take_token(row, token, now_s)
        return step.model_s

    def _take_progress(self, progress: PromptProgress, began_s: float) -> int:
        """Returns how many tokens were computed."""
        row = self._batch.row(progress.uid)
        if row.prefill_began_s is None:
            row.prefill_began_s = began_s
        computed = progress.done - row.slice_done
        row.slice_done = progress.done
        done = progress.done + len(row.tokens) - progress.total  # Some were in a parked cache.
        if done > row.prefill_done:
            self._tell(row, 0, done)
        if progress.at_last:
            if row.whole:
                self._prefixes.keep_prompt(row, self._batch)
            else:
                self._park(row)  # Until more of its prompt comes.
        return computed

    def _take_token(self, row: Row, token: StepToken, now_s: float) -> None:
        row.decoded = True
        token_id = token.token_id
        if row.guess is not None:
            self._check_guess(row, row.guess, token_id, now_s)
            return
        if token_id in row.prepared.ending_ids:
            self._finish(row, FinishReason.STOP, token_id, now_s)
            return
        text = row.add_token(token_id, now_s)
        self._messages.append(Token(row.stream, token_id, text, token.logprobs))
        if row.stops.stopped_by:
            self._finish(row, FinishReason.STOP, None, now_s)
        elif len(row.generated) >= row.prepared.max_tokens:
            self._finish(row, FinishReason.LENGTH, None, now_s)
        else:
            if row.first_key is not None:
                self._first_tokens.learn(row.first_key, token_id)
                row.first_key = None
            if row.paused:
                self._park(row)

    def _check_guess(self, row: Row, guess: int, token_id: int, now_s: float) -> None:
        """The model has given the first token of a row whose guess was sent.

        A wrong guess cannot be taken back: the row goes on from it, with what the model gives after it.
        """
        assert row.first_key is not None
        right = self._first_tokens.check(row.first_key, guess, token_id)
        row.guess = row.first_key = None
        row.count_token(guess, now_s)
        if row.paused:
            self._park(row)
        elif not right:
            self._batch.park(row)
            self._waiting.appendleft(row)

    def _finish(self, row: Row, reason: FinishReason, stop_token_id: int | None, now_s: float) -> None:
        self._messages.append(row.finished(reason, stop_token_id=stop_token_id, now_s=now_s))
        self._parking.leave(row)
        del self._rows[row.stream]
        self._ended.append(row)

    def _fail(self, row: Row, error: Exception) -> None:
        message = f"the model failed on this stream: {type(error).__name__}: {error}"
        self._messages.append(Failed(row.stream, Reason.STEP_FAILED, message, ""))
        self._drop(row)

    def _recover(self, error: Exception) -> None:
        """Go on after a failed step: the row that causes it fails alone, the others start over."""
        self._failed_steps += 1
        well, failed = self._batch.rebuild()
        for row, cause in failed:
            self._fail(row, cause)
        if not failed and self._failed_steps >= _MAX_FAILED_STEPS:
            for row in well:
                self._fail(row, error)
        else:
            self._waiting.extendleft(reversed(well))
