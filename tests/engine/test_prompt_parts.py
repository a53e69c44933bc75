"""A prompt in pieces in the MLX worker: it is computed before it is whole, and never wrongly."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.events import Event, Prefill
from engine.mlx_worker.generator import RowInput
from engine.mlx_worker.growing_prompt import GrowingPrompt
from engine.mlx_worker.intake import Intake
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.row_generator import RowGenerator
from engine.requests import GenerationRequest, PartsInput, TextInput
from engine.wire import Message, PromptPart, Submit
from flowcontrol.reasons import Reason
from tests.engine.failing_generators import POISON_TOKEN_ID, Faults, FaultyGenerator, PoisonedGenerator
from tests.engine.loop_driver import LoopDriver, nothing
from tests.engine.requests import Sink, generation

Drive = Callable[..., LoopDriver]
TEXT = "One day a fox met a cat in the old forest. The cat was hungry and the fox was not. " * 4
# Not at the end of a sentence.
HALF = len(TEXT) // 2 - 10
WAY: dict[str, Any] = {"max_tokens": 10, "temperature": 1.0, "seed": 3}
PARTS = generation(PartsInput(), **WAY)


class CountingGenerator(RowGenerator):
    """Counts the tokens that it is given to compute."""

    computed: list[int]

    def __init__(self, computed: list[int], model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self.computed = computed

    def insert(self, row: RowInput) -> int:
        self.computed.append(len(row.tokens))
        return super().insert(row)


class UnstableTokenizer:
    """Gives quite other tokens for a text without a full stop at its end."""

    def __init__(self, tokenizer: Any) -> None:
        self._inner = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode(self, text: str, **options: Any) -> list[int]:
        ids: list[int] = self._inner.encode(text, **options)
        return ids if text.rstrip().endswith(".") else [*ids[: len(ids) // 2], *reversed(ids)]


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel, generator_options: Callable[..., Any]) -> Drive:
    def drive(
        make: Callable[..., RowGenerator] = RowGenerator, *, model: LoadedModel = loaded, **options: Any
    ) -> LoopDriver:
        return LoopDriver(model, partial(generator_options, make), **options)

    return drive


@pytest.fixture(scope="module")
def whole(drive: Drive) -> Sink:
    (sink,) = drive().run([generation(TextInput(TEXT), **WAY)])
    return sink


def last_after_the_first_is_computed(driver: LoopDriver, event: Event) -> None:
    """The second half comes when all of the first that can be computed has been."""
    if isinstance(event, Prefill) and event.done == event.total - 1 and event.stream not in driver.completed:
        driver.completed.add(event.stream)
        driver.add_part(event.stream, TEXT[HALF:], last=True)


def run_in_halves(driver: LoopDriver, request: GenerationRequest = PARTS) -> Sink:
    sink = driver.submit(request)
    driver.add_part(1, TEXT[:HALF])
    driver.go()
    return sink


def assert_same(sink: Sink, whole: Sink) -> None:
    assert (sink.ids, sink.text) == (whole.ids, whole.text)
    assert sink.finished.prompt_tokens == whole.finished.prompt_tokens


def test_the_first_half_is_computed_before_the_second_comes_and_only_once(drive: Drive, whole: Sink) -> None:
    computed: list[int] = []
    driver = drive(partial(CountingGenerator, computed), react=last_after_the_first_is_computed)
    assert_same(run_in_halves(driver), whole)
    assert len(computed) == 2
    assert computed[0] > whole.finished.prompt_tokens // 4
    # The last token of the first slice is left to the next one.
    assert sum(computed) == whole.finished.prompt_tokens + 1
    assert max(counters.parked_kv_bytes for counters in driver.counters) > 0
    assert driver.counters[-1].parked_kv_bytes == 0


def test_a_beginning_that_was_evicted_is_computed_again(drive: Drive, whole: Sink) -> None:
    computed: list[int] = []
    make = partial(CountingGenerator, computed)
    driver = drive(make, react=last_after_the_first_is_computed, max_parked_kv_bytes=0)
    assert_same(run_in_halves(driver), whole)
    assert computed[1] == whole.finished.prompt_tokens
    assert driver.counters[-1].evictions == 1


def test_tokens_that_more_text_changes_are_computed_again(
    drive: Drive, whole: Sink, loaded: LoadedModel
) -> None:
    computed: list[int] = []
    unstable = replace(loaded, tokenizer=UnstableTokenizer(loaded.tokenizer))
    driver = drive(
        partial(CountingGenerator, computed), model=unstable, react=last_after_the_first_is_computed
    )
    assert_same(run_in_halves(driver), whole)
    assert whole.finished.prompt_tokens // 2 < computed[1] < whole.finished.prompt_tokens


def test_pieces_that_come_while_the_first_is_computed(drive: Drive, whole: Sink) -> None:
    """At a slice of prefill comes twice the text: the row leaves the batch in the middle of its prompt."""
    left = [TEXT[90:180], TEXT[180:]]
    seen: list[Prefill] = []

    def react(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Prefill) and left:
            seen.append(event)
            driver.add_part(event.stream, left.pop(0), last=not left)

    driver = drive(react=react)
    sink = driver.submit(PARTS)
    driver.add_part(1, TEXT[:90])
    driver.go()
    assert all(event.done < event.total - 1 for event in seen)
    assert_same(sink, whole)


@pytest.mark.parametrize("at_step", [1, 2, 3, 5, 8])
def test_a_step_that_fails_costs_an_open_prompt_nothing(drive: Drive, whole: Sink, at_step: int) -> None:
    faults = Faults(at_steps={at_step}, rows=1)
    driver = drive(partial(FaultyGenerator, faults), react=last_after_the_first_is_computed)
    with_company = driver.submit(generation(TextInput(TEXT), **WAY))
    sink = driver.submit(PARTS)
    driver.add_part(2, TEXT[:HALF])
    driver.completed.add(1)
    driver.go()
    assert_same(sink, whole)
    assert_same(with_company, whole)


def test_pieces_after_a_failure_do_nothing(drive: Drive, loaded: LoadedModel, whole: Sink) -> None:
    poison = loaded.tokenizer.decode([POISON_TOKEN_ID]) + " " + TEXT
    assert POISON_TOKEN_ID in loaded.tokenizer.encode(poison)[:20]
    driver = drive(PoisonedGenerator, react=nothing)
    sink = driver.submit(PARTS)
    other = driver.submit(generation(TextInput(TEXT), **WAY))
    driver.add_part(1, poison)
    driver.go()
    assert sink.failed.reason is Reason.STEP_FAILED
    count = len(sink.events)
    driver.add_part(1, poison, last=True)
    again = driver.submit(generation(TextInput(TEXT), **WAY))
    driver.go()
    assert len(sink.events) == count
    for healthy in (other, again):
        assert_same(healthy, whole)


@given(lengths=st.lists(st.integers(0, 50), max_size=60))
def test_all_tokenising_before_the_end_costs_less_than_two_whole_texts(lengths: list[int]) -> None:
    prompt = GrowingPrompt(PARTS, 0.0)
    text, taken = "", 0
    for number, length in enumerate(lengths):
        piece = chr(97 + number % 26) * length
        text += piece
        prompt.add(piece)
        if prompt.has_doubled:
            taken += len(text)
            assert prompt.take_text() == text
    assert taken <= 2 * len(text)
    assert prompt.take_text() == text
    assert prompt.chars == len(text)


@given(cuts=st.lists(st.integers(0, 120), max_size=8), text=st.text("ab c🦊é.\n", min_size=1, max_size=120))
def test_the_ids_are_those_of_the_text_in_one_piece(loaded: LoadedModel, cuts: list[int], text: str) -> None:
    """What is computed before only grows; the last tokenising decides."""
    rows: list[Any] = []
    refusals: list[Message] = []
    intake = Intake(loaded, rows.append, refusals.extend, default_max_tokens=10)
    intake.submit(Submit(1, PARTS))
    bounds = [0, *sorted(cuts), len(text)]
    for start, end in pairwise(bounds):
        intake.add(PromptPart(1, text[start:end], last=False))
    intake.add(PromptPart(1, "", last=True))
    assert refusals == []
    assert rows[-1].prepared.prompt_ids == loaded.tokenizer.encode(text)
    assert [row.whole for row in rows] == [False] * (len(rows) - 1) + [True]
    assert [row.supersedes for row in rows] == [False] + [True] * (len(rows) - 1)
    lengths = [len(row.prepared.prompt_ids) for row in rows]
    assert lengths == sorted(lengths)
