"""One row at a time: with a draft the output is that without."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from engine.events import Event, FinishReason, Token
from engine.mlx_worker.batch import MakeGenerator
from engine.mlx_worker.generator import Step
from engine.mlx_worker.kv_cache import PLAIN
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.row_generator import RowGenerator
from engine.mlx_worker.single_generator import SingleGenerator
from tests.engine.loop_driver import LoopDriver
from tests.engine.requests import Sink, generation, sampling
from tests.engine.single_rows import (
    DRAFT_TOKENS,
    PROMPT,
    TOKENS,
    assert_same,
    ids_of,
    pause_and_resume,
    requests,
    row_input,
    steps,
)

DRAFTS = ("same", "random")

Drive = Callable[..., LoopDriver]


@pytest.fixture(scope="module")
def batched(generator_options: Callable[..., Any]) -> MakeGenerator:
    return partial(generator_options, RowGenerator)


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel) -> Drive:
    return partial(LoopDriver, loaded)


@pytest.fixture(scope="module")
def undisturbed(drive: Drive, batched: MakeGenerator) -> list[Sink]:
    return drive(batched).run(requests())


def test_without_a_draft_it_gives_what_the_batch_gives(
    loaded: LoadedModel, drive: Drive, undisturbed: list[Sink]
) -> None:
    assert_same(
        drive(partial(SingleGenerator, loaded.model, draft=None, kv=PLAIN)).run(requests()), undisturbed
    )


@pytest.mark.parametrize("draft", DRAFTS)
def test_a_draft_changes_nothing_of_the_output(
    drive: Drive, drafted: Callable[[str], MakeGenerator], undisturbed: list[Sink], draft: str
) -> None:
    assert_same(drive(drafted(draft)).run(requests()), undisturbed)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_model_as_its_own_draft_is_always_right(
    loaded: LoadedModel, drafted: Callable[[str], MakeGenerator], temperature: float
) -> None:
    """One token at first, for which no draft is waited for; then all proposals and the model's own token."""
    generator = drafted("same")()
    request = generation(PROMPT)
    generator.insert(
        row_input(loaded, request, sampling=sampling(temperature=temperature, seed=8, presence_penalty=0.3))
    )
    counts = [len(step.tokens) for step in steps(generator, 1 + 4 * (DRAFT_TOKENS + 1)) if step.tokens]
    assert counts == [1] + 4 * [DRAFT_TOKENS + 1]


def test_the_draft_is_still_right_after_a_row_was_out(
    loaded: LoadedModel, drafted: Callable[[str], MakeGenerator]
) -> None:
    """Its cache goes out and in again with the model's, at the same token."""
    generator = drafted("same")()
    row = row_input(loaded, generation(PROMPT))
    uid = generator.insert(row)
    known = row.tokens + ids_of(steps(generator, 1 + 2 * (DRAFT_TOKENS + 1)))
    kept = generator.extract(uid)
    assert kept is not None
    for again in (generator.next(64).tokens, generator.next(64).tokens):
        assert len(again) == DRAFT_TOKENS + 1
    generator.remove(uid)
    generator.insert(replace(row, tokens=known[-1:], cache=kept[0], covered=kept[1]))
    counts = [len(step.tokens) for step in steps(generator, 1 + 2 * (DRAFT_TOKENS + 1)) if step.tokens]
    assert counts == [1, DRAFT_TOKENS + 1, DRAFT_TOKENS + 1]


def test_a_draft_that_knows_nothing_is_mostly_wrong(
    loaded: LoadedModel, drafted: Callable[[str], MakeGenerator]
) -> None:
    generator = drafted("random")()
    generator.insert(row_input(loaded, generation(PROMPT)))
    counts = [len(step.tokens) for step in steps(generator, TOKENS) if step.tokens]
    assert sum(counts) < 1.5 * len(counts)


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 6])
def test_an_end_inside_an_accepted_run(
    drive: Drive, drafted: Callable[[str], MakeGenerator], undisturbed: list[Sink], max_tokens: int
) -> None:
    driver = drive(drafted("same"))
    (sink,) = driver.run([generation(PROMPT, max_tokens=max_tokens)])
    assert sink.ids == undisturbed[0].ids[:max_tokens]
    assert sink.finished.reason is FinishReason.LENGTH
    assert driver.counters[-1].generated_tokens == max_tokens


@pytest.mark.parametrize("place", range(2, 8))
def test_a_stop_token_and_a_stop_string_inside_an_accepted_run(
    drive: Drive,
    drafted: Callable[[str], MakeGenerator],
    batched: MakeGenerator,
    undisturbed: list[Sink],
    place: int,
) -> None:
    stopping = [
        generation(PROMPT, stop_token_ids=(undisturbed[0].ids[place],)),
        generation(PROMPT, stop_strings=(undisturbed[0].tokens[place].text,)),
    ]
    references = drive(batched).run(stopping)
    assert all(reference.finished.reason is FinishReason.STOP for reference in references)
    assert_same(drive(drafted("same")).run(stopping), references)


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("budget", [0, 20_000, 2**30])
def test_parked_rows_go_on_exactly(
    drive: Drive, drafted: Callable[[str], MakeGenerator], undisturbed: list[Sink], budget: int, draft: str
) -> None:
    driver = drive(drafted(draft), react=pause_and_resume, max_parked_kv_bytes=budget)
    assert_same(driver.run(requests()), undisturbed)


@pytest.mark.parametrize("draft", DRAFTS)
def test_cancelled_rows_leave_the_others_alone(
    drive: Drive, drafted: Callable[[str], MakeGenerator], undisturbed: list[Sink], draft: str
) -> None:
    def react(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and event.stream == 1 and len(driver.sinks[1].ids) == 5:
            driver.cancel(1)
            driver.cancel(2)

    driver = drive(drafted(draft), react=react)
    sinks = driver.run(requests())
    assert len(sinks[0].ids) < TOKENS
    assert_same(sinks[2:], undisturbed[2:])
    assert driver.counters[-1].kv_bytes == 0


@pytest.mark.parametrize("slice_tokens", [1, 5, 64])
def test_a_prompt_is_computed_in_slices_of_the_oldest_row(
    loaded: LoadedModel, drafted: Callable[[str], MakeGenerator], slice_tokens: int
) -> None:
    generator = drafted("same")()
    row = row_input(loaded, generation(PROMPT))
    first, second = generator.insert(row), generator.insert(row)
    prompt = len(row.tokens)
    done = steps(generator, 1, slice_tokens)
    told = [progress for step in done for progress in step.prompts]
    assert {progress.uid for progress in told} == {first}
    assert [progress.done for progress in told] == [
        min(n * slice_tokens, prompt - 1) for n in range(1, -(-(prompt - 1) // slice_tokens) + 1)
    ]
    assert [progress.at_last for progress in told] == [False] * (len(told) - 1) + [True]
    assert {progress.total for progress in told} == {prompt}
    assert all(step.model_s > 0 for step in done)
    generator.remove(first)
    assert {token.uid for token in steps(generator, 1)[-1].tokens} == {second}


def test_a_prompt_of_one_token(loaded: LoadedModel, drafted: Callable[[str], MakeGenerator]) -> None:
    generator = drafted("same")()
    uid = generator.insert(row_input(loaded, generation(PROMPT), tokens=[5], prompt_tokens=1))
    assert generator.extract(uid) is None
    first, second = generator.next(64), generator.next(64)
    assert [(p.done, p.total, p.at_last) for p in first.prompts] == [(1, 1, True)]
    assert not first.tokens
    assert [token.uid for token in second.tokens] == [uid]


def test_nothing_to_do(loaded: LoadedModel) -> None:
    generator = SingleGenerator(loaded.model, draft=None, kv=PLAIN)
    assert generator.next(64) == Step([], [], 0.0)
    assert generator.extract(7) is None
    generator.remove(7)
    assert generator.kv_bytes == 0
