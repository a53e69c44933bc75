"""Rows that begin with a cached prefix give what they give without, and the cache gives way first."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from engine.events import Event, Finished, Prefill, Token
from engine.mlx_worker.intake import Intake
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.prefix_cache import PrefixCache
from engine.mlx_worker.row import Parked, Row
from engine.mlx_worker.row_generator import RowGenerator
from engine.mlx_worker.row_prefixes import RowPrefixes
from engine.requests import ChatInput, GenerationRequest, PartsInput, TextInput
from engine.wire import Pause, Resume, Submit
from tests.engine.failing_generators import POISON_TOKEN_ID, Faults, FaultyGenerator, PoisonedGenerator
from tests.engine.loop_driver import LoopDriver, nothing
from tests.engine.requests import Sink, generation

Drive = Callable[..., LoopDriver]
SYSTEM = "One day a fox met a cat in the old forest. The cat was hungry and the fox was not. " * 3
LARGE = 2**30


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel, generator_options: Callable[..., Any]) -> Drive:
    def drive(
        make: Callable[..., RowGenerator] = RowGenerator, *, cache_bytes: int = LARGE, **options: Any
    ) -> LoopDriver:
        return LoopDriver(
            loaded, partial(generator_options, make), max_prefix_cache_bytes=cache_bytes, **options
        )

    return drive


def ways(text: str) -> list[GenerationRequest]:
    """Greedy, sampled, with a penalty that looks at the prompt, and with log-probabilities."""
    return [
        generation(TextInput(text), max_tokens=10),
        generation(TextInput(text), max_tokens=10, temperature=1.0, seed=3),
        generation(TextInput(text), max_tokens=10, temperature=0.7, repetition_penalty=1.3, seed=4),
        generation(TextInput(text), max_tokens=10, logprobs=3),
    ]


def one_by_one(driver: LoopDriver, requests: list[GenerationRequest]) -> list[Sink]:
    return [driver.run([request])[0] for request in requests]


def assert_same(sinks: list[Sink], references: list[Sink]) -> None:
    for sink, reference in zip(sinks, references, strict=True):
        assert [(each.token_id, each.text, each.logprobs) for each in sink.tokens] == [
            (each.token_id, each.text, each.logprobs) for each in reference.tokens
        ]
        assert sink.text == reference.text
        assert sink.finished.prompt_tokens == reference.finished.prompt_tokens


def cached(sinks: list[Sink]) -> list[int]:
    return [sink.finished.cached_tokens for sink in sinks]


def test_the_same_prompt_again_computes_its_last_token_only(drive: Drive) -> None:
    """Tokens, text and log-probabilities are equal to the bit."""
    reference = one_by_one(drive(cache_bytes=0), ways(SYSTEM))
    driver = drive()
    sinks = one_by_one(driver, ways(SYSTEM))
    assert_same(sinks, reference)
    prompt = reference[0].finished.prompt_tokens
    assert cached(reference) == [0] * 4
    assert cached(sinks) == [0] + [prompt - 1] * 3
    counters = driver.counters[-1]
    assert (counters.prefix_hits, counters.prefix_misses) == (3, 1)
    assert (counters.prompt_tokens, counters.cached_prompt_tokens) == (4 * prompt, 3 * (prompt - 1))
    assert counters.prefix_cache_bytes > 0
    for sink in sinks[1:]:
        assert sink.prefills[0].done == prompt - 1
        assert {event.total for event in sink.prefills} <= {prompt}


@pytest.mark.parametrize("tail", ["The end.", "And then the fox went home, and the cat with it."])
def test_a_shared_beginning_is_computed_once(drive: Drive, loaded: LoadedModel, tail: str) -> None:
    requests = [*ways(SYSTEM + "A bird sang."), *ways(SYSTEM + tail)]
    driver = drive()
    sinks = one_by_one(driver, requests)
    assert_same(sinks, one_by_one(drive(cache_bytes=0), requests))
    beginning = len(loaded.tokenizer.encode(SYSTEM))
    assert all(count >= beginning - 1 for count in cached(sinks)[1:])


def test_rows_beside_each_other_hit_while_the_first_still_runs(drive: Drive) -> None:
    def late(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and event.stream == 1 and len(driver.sinks[1].ids) == 1:
            for request in ways(SYSTEM + "The end."):
                driver.submit(request)

    first = generation(TextInput(SYSTEM), max_tokens=24)
    references = one_by_one(drive(cache_bytes=0), [first, *ways(SYSTEM + "The end.")])
    driver = drive(react=late)
    driver.run([first])
    assert_same(list(driver.sinks.values()), references)
    prompt = references[0].finished.prompt_tokens
    assert all(count >= prompt - 1 for count in cached(list(driver.sinks.values()))[1:])


def test_a_row_that_waits_finds_what_was_kept_in_the_meantime(drive: Drive) -> None:
    """Six rows, of which four have room: the last two look again when they get in."""
    requests = [generation(TextInput(SYSTEM), max_tokens=4 + number) for number in range(6)]
    driver = drive()
    sinks = driver.run(requests)
    assert_same(sinks, [drive(cache_bytes=0).run([request])[0] for request in requests])
    assert [bool(count) for count in cached(sinks)] == [False] * 4 + [True] * 2


def test_salts_do_not_share(drive: Drive) -> None:
    requests = [
        generation(TextInput(SYSTEM), max_tokens=4, cache_salt=salt) for salt in ("a", "b", "", "a", "b", "")
    ]
    driver = drive()
    sinks = one_by_one(driver, requests)
    assert [bool(count) for count in cached(sinks)] == [False] * 3 + [True] * 3
    assert driver.counters[-1].prefix_misses == 3


def test_turns_of_a_chat_compute_only_what_is_new(drive: Drive, loaded: LoadedModel) -> None:
    """Each turn finds prompt and output of the turn before, up to the joint that the template makes."""
    driver = drive()
    messages: list[tuple[str, str]] = []
    left: list[int] = []
    lengths: list[int] = []
    for turn in range(5):
        messages.append(("user", f"Tell me about fox number {turn}, the cat and the old forest."))
        request = generation(ChatInput(tuple(messages)), max_tokens=20, ignore_eos=False)
        (sink,) = driver.run([request])
        (reference,) = drive(cache_bytes=0).run([request])
        assert_same([sink], [reference])
        finished = sink.finished
        left.append(finished.prompt_tokens - finished.cached_tokens)
        lengths.append(finished.prompt_tokens)
        messages.append(("assistant", sink.text))
    assert lengths[-1] > 3 * lengths[0]
    assert max(left[1:]) <= lengths[0] + 5, (left, lengths)


def test_resumed_streams_look_too(drive: Drive) -> None:
    request = generation(TextInput(SYSTEM), max_tokens=16, temperature=1.0, seed=5)
    driver = drive()
    (whole,) = driver.run([request])
    resumed = generation(TextInput(SYSTEM), max_tokens=16, temperature=1.0, seed=5, resume_ids=whole.ids[:6])
    (rest,) = driver.run([resumed])
    assert whole.ids == whole.ids[:6] + rest.ids
    assert rest.finished.cached_tokens == whole.finished.prompt_tokens


def test_prompts_in_pieces_look_too(drive: Drive) -> None:
    request = generation(TextInput(SYSTEM), max_tokens=8)
    driver = drive()
    (whole,) = driver.run([request])
    sink = driver.submit(generation(PartsInput(), max_tokens=8))
    driver.add_part(2, SYSTEM[:150])
    driver.add_part(2, SYSTEM[150:], last=True)
    driver.go()
    assert_same([sink], [whole])
    assert sink.prefills[-1].done >= whole.finished.prompt_tokens - 1
    assert sink.finished.cached_tokens == whole.finished.prompt_tokens - 1
    assert driver.counters[-1].prefix_hits == 1


def test_the_known_part_of_a_prompt_is_told_when_it_is_found(drive: Drive) -> None:
    """More of the prompt comes only after that."""

    def last(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Prefill) and event.stream == 2 and event.done and 2 not in driver.completed:
            driver.completed.add(2)
            driver.add_part(2, SYSTEM[150:], last=True)

    driver = drive(react=last)
    (whole,) = driver.run([generation(TextInput(SYSTEM), max_tokens=8)])
    sink = driver.submit(generation(PartsInput(), max_tokens=8))
    driver.add_part(2, SYSTEM[:150])
    driver.go()
    assert_same([sink], [whole])
    assert driver.counters[-1].parked_kv_bytes == 0


def test_a_row_that_lost_its_parked_cache_gets_its_prompt_back(drive: Drive) -> None:
    def pause_once(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and len(driver.sinks[1].ids) == 3:
            driver.loop.hand_over(Pause(1))
            driver.loop.hand_over(Resume(1))

    request = generation(TextInput(SYSTEM), max_tokens=8, temperature=1.0)
    computed: list[int] = []

    class Counting(RowGenerator):
        def insert(self, row: Any) -> int:
            computed.append(len(row.tokens))
            return super().insert(row)

    driver = drive(Counting, react=pause_once, max_parked_kv_bytes=0)
    assert_same(driver.run([request]), drive(cache_bytes=0).run([request]))
    assert driver.counters[-1].evictions == 1
    assert computed[1] <= 5
    # It is no hit of a stream that begins.
    assert driver.counters[-1].prefix_hits == 0
    assert driver.counters[-1].cached_prompt_tokens == 0


def test_a_cancelled_stream_leaves_its_beginning(drive: Drive) -> None:
    def leave(driver: LoopDriver, event: Event) -> None:
        if isinstance(event, Token) and event.stream == 1 and len(driver.sinks[1].ids) == 5:
            driver.cancel(1)

    driver = drive(react=leave)
    driver.run([generation(TextInput(SYSTEM[:80]), max_tokens=24)])
    (sink,) = driver.run([generation(TextInput(SYSTEM[:80]), max_tokens=24)])
    assert sink.finished.cached_tokens == sink.finished.prompt_tokens - 1


def test_prefixes_give_way_before_rows_have_too_little(drive: Drive) -> None:
    free = drive()
    one_by_one(free, ways(SYSTEM))
    kept = free.counters[-1].prefix_cache_bytes
    rows = max(counters.kv_bytes for counters in free.counters)
    driver = drive(max_kv_bytes=rows + kept // 2)
    assert_same(one_by_one(driver, ways(SYSTEM)), one_by_one(drive(cache_bytes=0), ways(SYSTEM)))
    for counters in driver.counters:
        assert counters.kv_bytes + counters.prefix_cache_bytes <= rows + kept // 2
    assert any(counters.prefix_cache_bytes for counters in driver.counters)


@pytest.mark.parametrize("at_step", [1, 3, 6, 9])
def test_steps_that_fail_leave_nothing_wrong_in_the_cache(drive: Drive, at_step: int) -> None:
    references = one_by_one(drive(cache_bytes=0), ways(SYSTEM))
    faults = Faults(at_steps={at_step}, rows=1)
    driver = drive(partial(FaultyGenerator, faults))
    assert_same(one_by_one(driver, ways(SYSTEM)), references)
    assert faults.raised == 1


def test_a_row_that_fails_leaves_nothing(drive: Drive, loaded: LoadedModel) -> None:
    poison = loaded.tokenizer.decode([POISON_TOKEN_ID]) + " " + SYSTEM
    driver = drive(PoisonedGenerator, react=nothing)
    sink = driver.submit(generation(TextInput(poison)))
    driver.go()
    assert sink.failed
    assert driver.counters[-1].prefix_cache_bytes == 0


class LayerOf:
    """A layer's cache that a model with linear attention, say, would have."""

    def __init__(self, tokens: int, *, trimmable: bool) -> None:
        self.nbytes = tokens
        self._trimmable = trimmable

    def is_trimmable(self) -> bool:
        return self._trimmable

    def trim(self, tokens: int) -> int:
        self.nbytes -= tokens
        return tokens


class BatchOf:
    """Gives copies of one row, whose prompt is computed but for its last token."""

    def __init__(self, *, trimmable: bool) -> None:
        self._trimmable = trimmable

    def copy_kv(self, row: Row) -> Parked:
        tokens = row.tokens if row.generated else row.tokens[:-1]
        return Parked([LayerOf(len(tokens), trimmable=self._trimmable)], tokens)


@pytest.mark.parametrize("trimmable", [False, True])
def test_what_cannot_be_trimmed_is_kept_at_the_end_of_the_prompt_only(
    loaded: LoadedModel, trimmable: bool
) -> None:
    rows: list[Any] = []
    intake = Intake(loaded, rows.append, lambda messages: None, default_max_tokens=10)
    for stream in (1, 2):
        intake.submit(Submit(stream, generation(TextInput(SYSTEM))))
    batch: Any = BatchOf(trimmable=trimmable)
    row, again = rows
    row.uid = 1
    cache = PrefixCache(LARGE)
    prefixes = RowPrefixes(cache, max_kv_bytes=0)
    prefixes.keep_prompt(row, batch)
    row.add_token(5, 1.0)
    prefixes.keep_end(row, batch)
    assert cache.covered("", row.tokens) == len(row.tokens) - (0 if trimmable else 2)
    assert prefixes.look_up(again)
    assert again.cached_tokens == len(again.tokens) - 1


def test_stage_times(drive: Drive) -> None:
    sinks = one_by_one(drive(), ways(SYSTEM)[:2])
    for sink in sinks:
        end = sink.end
        assert isinstance(end, Finished)
        assert end.tokenise_s > 0
        assert end.cache_lookup_s > 0
        assert end.tokenise_s + end.cache_lookup_s <= end.queue_s


def test_a_request_may_leave_the_cache_alone(drive: Drive) -> None:
    """It takes nothing from it, leaves nothing there, and is neither a hit nor a miss."""
    reference = one_by_one(drive(cache_bytes=0), [generation(TextInput(SYSTEM))] * 4)
    driver = drive()
    flags = (False, True, False, True)
    sinks = one_by_one(driver, [generation(TextInput(SYSTEM), prefix_cache=flag) for flag in flags])
    assert_same(sinks, reference)
    assert [found > 0 for found in cached(sinks)] == [False, False, False, True]
    counters = driver.counters[-1]
    assert (counters.prefix_hits, counters.prefix_misses) == (1, 1)
