"""First tokens sent from memory: the output is what it is without, whatever comes before the check."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from engine.events import Event, Prefill, Token
from engine.mlx_worker.first_tokens import FirstTokens
from engine.mlx_worker.generator import Step, StepToken
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.row_generator import RowGenerator
from engine.requests import GenerationRequest, PartsInput, TextInput
from engine.wire import Pause, Resume
from tests.engine.failing_generators import Faults, FaultyGenerator, StepError
from tests.engine.loop_driver import LoopDriver, React
from tests.engine.requests import Sink, generation

Drive = Callable[..., LoopDriver]
# Several slices of prefill.
TEXT = "One day a fox met a cat in the old forest. The cat was hungry and the fox was not. "
TOKENS = 10
# Another token than the model gives.
LIE = 300


def request(text: str = TEXT, **changes: Any) -> GenerationRequest:
    return generation(TextInput(text), **{"max_tokens": TOKENS} | changes)


class LyingGenerator(RowGenerator):
    """Names another first token for the first row, so that a wrong one is remembered."""

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self._to_lie = True

    def next(self, prefill_tokens: int) -> Step:
        step = super().next(prefill_tokens)
        if self._to_lie and step.tokens:
            self._to_lie = False
            return Step(step.prompts, [StepToken(step.tokens[0].uid, LIE, None)], step.model_s)
        return step


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel, generator_options: Callable[..., Any]) -> Drive:
    def drive(
        make: Callable[..., RowGenerator] = RowGenerator, *, speculate: bool = True, **options: Any
    ) -> LoopDriver:
        return LoopDriver(
            loaded, partial(generator_options, make), speculate_first_token=speculate, **options
        )

    return drive


@pytest.fixture(scope="module")
def reference(drive: Drive) -> Sink:
    (sink,) = drive(speculate=False).run([request()])
    assert LIE not in sink.ids
    return sink


@pytest.fixture(scope="module")
def after_lie(drive: Drive) -> Sink:
    """What the model gives after the wrong token."""
    (sink,) = drive(speculate=False).run([request(resume_ids=[LIE])])
    return sink


def guesses(driver: LoopDriver) -> tuple[int, int]:
    counters = driver.counters[-1]
    return counters.first_tokens_guessed, counters.first_tokens_wrong


def assert_like(sink: Sink, reference: Sink) -> None:
    assert (sink.ids, sink.text) == (reference.ids, reference.text)
    assert [token.text for token in sink.tokens] == [token.text for token in reference.tokens]
    assert sink.finished.completion_tokens == reference.finished.completion_tokens


def assert_went_on(sink: Sink, after_lie: Sink, loaded: LoadedModel) -> None:
    assert sink.ids == [LIE, *after_lie.ids]
    assert sink.text == loaded.tokenizer.decode([LIE]) + after_lie.text
    assert sink.finished.completion_tokens == TOKENS


def test_the_second_time_it_comes_before_the_prompt_is_computed(drive: Drive, reference: Sink) -> None:
    driver = drive()
    first, second = (driver.run([request()])[0] for _ in range(2))
    assert_like(first, reference)
    assert_like(second, reference)
    assert guesses(driver) == (1, 0)
    assert isinstance(first.events[0], Prefill)
    assert isinstance(second.events[0], Token)
    assert second.prefills == []
    assert second.finished.prefill_s > 0


def test_it_is_sent_before_the_next_step(drive: Drive) -> None:
    sent: list[int] = []

    class Looking(RowGenerator):
        def next(self, prefill_tokens: int) -> Step:
            if 2 in driver.sinks:
                sent.append(len(driver.sinks[2].ids))
            return super().next(prefill_tokens)

    driver = drive(Looking)
    for _ in range(2):
        driver.run([request()])
    assert sent[0] == 1


def test_it_is_off_without_the_option(drive: Drive, reference: Sink) -> None:
    driver = drive(speculate=False)
    for _ in range(2):
        (sink,) = driver.run([request()])
        assert_like(sink, reference)
        assert sink.prefills
    assert guesses(driver) == (0, 0)


def test_a_wrong_one_is_kept_and_the_stream_goes_on_from_it(
    drive: Drive, after_lie: Sink, reference: Sink, loaded: LoadedModel
) -> None:
    driver = drive(LyingGenerator)
    driver.run([request()])
    (sink,) = driver.run([request()])
    assert_went_on(sink, after_lie, loaded)
    assert guesses(driver) == (1, 1)
    # It is forgotten, and learned anew.
    for guessed in (1, 2):
        (sink,) = driver.run([request()])
        assert_like(sink, reference)
        assert guesses(driver) == (guessed, 1)


OTHERS: dict[str, GenerationRequest] = {
    "prompt": request(TEXT + "And"),
    "salt": request(cache_salt="another"),
    "repetition penalty": request(repetition_penalty=1.2),
    "frequency penalty": request(frequency_penalty=0.1),
    "presence penalty": request(presence_penalty=0.1),
    "bias": request(logit_bias={5: 1.0}),
    "least tokens": request(min_tokens=2),
    "stop tokens": request(stop_token_ids=(7,)),
    "stop strings": request(stop_strings=("fox",)),
    "sampled": request(temperature=0.5),
    "log-probabilities": request(logprobs=0),
    "one token": request(max_tokens=1),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_may_begin_otherwise_is_not_guessed(drive: Drive, other: str) -> None:
    driver = drive()
    driver.run([request()])
    driver.run([OTHERS[other]])
    assert guesses(driver) == (0, 0)


def test_resumed_streams_and_prompts_in_pieces_are_not_guessed(drive: Drive, reference: Sink) -> None:
    driver = drive()
    driver.run([request()])
    driver.run([request(resume_ids=reference.ids[:2])])
    sink = driver.submit(generation(PartsInput(), max_tokens=TOKENS))
    driver.add_part(3, TEXT, last=True)
    driver.go()
    assert_like(sink, reference)
    assert guesses(driver) == (0, 0)


@pytest.mark.parametrize("end", ["token", "string"])
def test_a_token_that_ends_the_stream_is_not_remembered(drive: Drive, reference: Sink, end: str) -> None:
    first = reference.tokens[0]
    ending: dict[str, Any] = (
        {"stop_token_ids": (first.token_id,)} if end == "token" else {"stop_strings": (first.text,)}
    )
    driver = drive()
    for _ in range(2):
        (sink,) = driver.run([request(**ending)])
        assert sink.text == ""
    assert guesses(driver) == (0, 0)


def test_text_held_back_for_a_stop_string_comes_once(drive: Drive, reference: Sink) -> None:
    # It begins with the first token's last letter and never comes.
    stop = reference.tokens[0].text[-1] + "\0"
    driver = drive()
    sinks = [driver.run([request(stop_strings=(stop,))])[0] for _ in range(2)]
    assert [sink.text for sink in sinks] == [reference.text] * 2
    assert [token.text for token in sinks[1].tokens] == [token.text for token in sinks[0].tokens]
    assert guesses(driver) == (1, 0)


def at_first_token(act: Callable[[LoopDriver], None]) -> React:
    """Acts when the first token of the second stream comes, which has not been checked then."""

    def react(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and event.stream == 2 and len(driver.sinks[2].ids) == 1:
            act(driver)

    return react


def pause_and_resume(driver: LoopDriver) -> None:
    driver.loop.hand_over(Pause(2))
    driver.loop.hand_over(Resume(2))


def pause_until_checked(driver: LoopDriver) -> None:
    """A third stream resumes it."""
    driver.loop.hand_over(Pause(2))
    driver.submit(request("The cat sat", max_tokens=16))


def resume_late(driver: LoopDriver, event: Event) -> None:
    if isinstance(event, Token) and event.stream == 3 and len(driver.sinks[3].ids) == 12:
        driver.loop.hand_over(Resume(2))


@pytest.mark.parametrize("budget", [0, 2**30])
@pytest.mark.parametrize("lie", [False, True])
@pytest.mark.parametrize("act", [pause_and_resume, pause_until_checked])
def test_a_pause_before_the_check(
    drive: Drive,
    reference: Sink,
    after_lie: Sink,
    loaded: LoadedModel,
    act: Callable[[LoopDriver], None],
    lie: bool,
    budget: int,
) -> None:
    pause = at_first_token(act)

    def react(driver: LoopDriver, event: Event) -> None:
        pause(driver, event)
        resume_late(driver, event)

    driver = drive(LyingGenerator if lie else RowGenerator, react=react, max_parked_kv_bytes=budget)
    driver.run([request()])
    (sink,) = driver.run([request()])
    if lie:
        assert_went_on(sink, after_lie, loaded)
    else:
        assert_like(sink, reference)
    assert guesses(driver) == (1, int(lie))
    assert driver.counters[-1].parked_kv_bytes == 0


def test_a_pause_while_the_prompt_is_computed(drive: Drive, reference: Sink) -> None:
    """The row is in the batch by then: it is parked with its checked token."""
    paused: list[int] = []

    class Noting(RowGenerator):
        """Tells the test of each step, as the loop sends nothing before the check."""

        def next(self, prefill_tokens: int) -> Step:
            step = super().next(prefill_tokens)
            if len(driver.sinks) == 2 and not paused:
                paused.append(2)
                driver.loop.hand_over(Pause(2))
                driver.submit(request("The cat sat", max_tokens=16))
            return step

    driver = drive(Noting, react=resume_late)
    driver.run([request()])
    (sink,) = driver.run([request()])
    assert_like(sink, reference)
    assert max(counters.parked_kv_bytes for counters in driver.counters) > 0


def test_a_cancel_before_the_check(drive: Drive, reference: Sink) -> None:
    driver = drive(react=at_first_token(lambda driver: driver.cancel(2)))
    driver.run([request()])
    (cancelled,) = driver.run([request()])
    assert cancelled.ids == reference.ids[:1]
    (third,) = driver.run([request()])
    assert_like(third, reference)
    assert guesses(driver) == (2, 0)


@pytest.mark.parametrize("at_step", [1, 2, 5, 8])
def test_a_step_that_fails_before_the_check(drive: Drive, reference: Sink, at_step: int) -> None:
    faults = Faults(at_steps=set(), rows=1)
    driver = drive(partial(FaultyGenerator, faults))
    driver.run([request()])
    faults.at_steps = {faults.steps + at_step}
    (sink,) = driver.run([request()])
    assert faults.raised == 1
    assert_like(sink, reference)
    assert guesses(driver) == (1, 0)


def test_a_row_that_fails_before_the_check(drive: Drive) -> None:
    """The second time the model refuses what it took before: the stream fails after its guess."""

    class Fickle(RowGenerator):
        failing = False

        def next(self, prefill_tokens: int) -> Step:
            if Fickle.failing:
                raise StepError("fickle")
            return super().next(prefill_tokens)

    def fail(driver: LoopDriver) -> None:
        Fickle.failing = True

    driver = drive(Fickle, react=at_first_token(fail))
    driver.run([request()])
    (sink,) = driver.run([request()])
    assert len(sink.ids) == 1
    assert "fickle" in sink.failed.message
    assert driver.counters[-1].running_rows == driver.counters[-1].waiting_rows == 0


def test_many_at_once_with_others_between(drive: Drive, reference: Sink) -> None:
    other = request("The cat sat", temperature=1.0, seed=3)
    (alone,) = drive(speculate=False).run([other])
    driver = drive()
    driver.run([request()])
    sinks = driver.run([request(), other] * 4)
    for mine, its in zip(sinks[::2], sinks[1::2], strict=True):
        assert_like(mine, reference)
        assert_like(its, alone)
    assert guesses(driver) == (4, 0)


def key(number: int) -> bytes:
    return number.to_bytes(4, "big")


def test_it_is_switched_off_for_good_above_the_rate() -> None:
    table = FirstTokens(enabled=True, max_mismatch_rate=0.1)
    for number in range(40):
        table.learn(key(number), number)
    # Every second guess is wrong; only after twenty there are enough of them to judge.
    checks = [table.check(key(number), number, number - number % 2) for number in range(19)]
    assert checks.count(False) == table.wrong == 9
    assert table.recall(key(30)) == 30
    assert not table.check(key(30), 30, 31)
    assert table.recall(key(31)) is None
    table.learn(key(31), 31)
    assert table.recall(key(31)) is None
    assert table.guessed == 1


def test_a_share_at_the_rate_is_borne() -> None:
    table = FirstTokens(enabled=True, max_mismatch_rate=0.1)
    table.learn(key(0), 0)
    for number in range(100):
        table.check(key(1), 1, 0 if number % 10 == 9 else 1)
        assert table.recall(key(0)) == 0


def test_the_least_recently_used_is_forgotten() -> None:
    table = FirstTokens(enabled=True, max_mismatch_rate=0.1, max_remembered=3)
    for first, second in pairwise(range(4)):
        table.learn(key(first), first)
        assert table.recall(key(0)) == 0
        table.learn(key(second), second)
    assert [table.recall(key(number)) for number in range(4)] == [0, None, 2, 3]


def test_a_request_may_forbid_it(drive: Drive, reference: Sink) -> None:
    """It neither gets a guess nor leaves one."""
    driver = drive()
    for speculate in (False, True, False, True):
        (sink,) = driver.run([request(speculate=speculate)])
        assert_like(sink, reference)
    assert guesses(driver) == (1, 0)
