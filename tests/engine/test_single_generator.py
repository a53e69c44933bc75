"""One row at a time: with a draft the output is that without; what goes out comes in again."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from engine.events import Event, FinishReason, Token
from engine.mlx_worker.batch import MakeGenerator
from engine.mlx_worker.generator import Generator, RowInput, Step
from engine.mlx_worker.generators import generator_maker
from engine.mlx_worker.kv_cache import PLAIN, KvForm
from engine.mlx_worker.model import LoadedModel, load_model
from engine.mlx_worker.row import Parked
from engine.mlx_worker.row_generator import RowGenerator
from engine.mlx_worker.single_generator import Draft, SingleGenerator
from engine.mlx_worker.warm_up import warm_up
from engine.requests import GenerationRequest, TextInput
from engine.wire import Pause, Resume
from tests.engine.loop_driver import LoopDriver
from tests.engine.random_models import VOCABULARY, make_model
from tests.engine.requests import Sink, generation, sampling
from tests.engine.subjects import WORKER

TOKENS = 20
DRAFT_TOKENS = 3
PROMPT = TextInput("One day a fox met a cat in the old forest. The cat was hungry.")
QUANTISED = KvForm(bits=8, group_size=32, quantized_start=0, max_tokens=0)
ROTATING = KvForm(bits=0, group_size=64, quantized_start=0, max_tokens=40)
DRAFTS = ("same", "random")

Drive = Callable[..., LoopDriver]


def requests() -> list[GenerationRequest]:
    """Greedy, sampled in every way, with what looks back at the output, and with log-probabilities."""
    return [
        generation(PROMPT, max_tokens=TOKENS),
        generation(TextInput("The"), max_tokens=TOKENS, logprobs=2),
        generation(PROMPT, max_tokens=TOKENS, temperature=1.0, seed=3),
        generation(PROMPT, max_tokens=TOKENS, temperature=0.8, seed=4, top_p=0.9, top_k=30, min_p=0.01),
        generation(PROMPT, max_tokens=TOKENS, temperature=0.9, seed=5, xtc_probability=0.5, logprobs=0),
        generation(
            PROMPT, max_tokens=TOKENS, temperature=0.7, seed=6, repetition_penalty=1.3, presence_penalty=0.4
        ),
        generation(PROMPT, max_tokens=TOKENS, frequency_penalty=1.5, logit_bias={40: 3.0}),
        generation(PROMPT, max_tokens=TOKENS, min_tokens=12, ignore_eos=False, logit_bias={1: 9.0}),
    ]


@pytest.fixture(scope="module")
def directory(mlx: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def draft_models(loaded: LoadedModel, directory: Path) -> dict[str, Any]:
    """The model itself, and one that knows nothing."""
    random = load_model(replace(WORKER, model=make_model(directory / "random")))
    return {"same": loaded.model, "random": random.model}


@pytest.fixture(scope="module")
def drafted(loaded: LoadedModel, draft_models: dict[str, Any]) -> Callable[[str], MakeGenerator]:
    def make(name: str, kv: KvForm = PLAIN) -> MakeGenerator:
        return partial(SingleGenerator, loaded.model, draft=Draft(draft_models[name], DRAFT_TOKENS), kv=kv)

    return make


@pytest.fixture(scope="module")
def batched(generator_options: Callable[..., Any]) -> MakeGenerator:
    return partial(generator_options, RowGenerator)


@pytest.fixture(scope="module")
def drive(loaded: LoadedModel) -> Drive:
    return partial(LoopDriver, loaded)


@pytest.fixture(scope="module")
def undisturbed(drive: Drive, batched: MakeGenerator) -> list[Sink]:
    return drive(batched).run(requests())


def assert_same(sinks: list[Sink], references: list[Sink]) -> None:
    for sink, reference in zip(sinks, references, strict=True):
        assert (sink.ids, sink.text) == (reference.ids, reference.text)
        assert sink.finished.reason == reference.finished.reason
        assert sink.finished.completion_tokens == reference.finished.completion_tokens
        assert [token.logprobs for token in sink.tokens] == [token.logprobs for token in reference.tokens]


def row_input(loaded: LoadedModel, request: GenerationRequest, **changes: Any) -> RowInput:
    assert isinstance(request.input, TextInput)
    ids = list(loaded.tokenizer.encode(request.input.text))
    row = RowInput(
        tokens=ids,
        cache=None,
        covered=[],
        prompt_tokens=len(ids),
        sampling=request.sampling,
        min_tokens=0,
        ending_ids=(),
        logprobs=None,
    )
    return replace(row, **changes)


def steps(generator: Generator, tokens: int, prefill_tokens: int = 64) -> list[Step]:
    """Steps until the rows have so many tokens together."""
    done: list[Step] = []
    while sum(len(step.tokens) for step in done) < tokens:
        done.append(generator.next(prefill_tokens))
        assert len(done) < 200
    return done


def ids_of(done: list[Step]) -> list[int]:
    return [token.token_id for step in done for token in step.tokens]


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


def pause_and_resume(driver: LoopDriver, event: Event) -> None:
    if isinstance(event, Token) and len(driver.sinks[event.stream].ids) % 3 == 0:
        driver.loop.hand_over(Pause(event.stream))
        driver.loop.hand_over(Resume(event.stream))


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


@pytest.fixture(scope="module")
def makers(
    loaded: LoadedModel, drafted: Callable[..., MakeGenerator], directory: Path
) -> dict[str, MakeGenerator]:
    rotating = load_model(replace(WORKER, model=make_model(directory / "rotating", "qwen2")))
    return {
        "plain": partial(SingleGenerator, loaded.model, draft=None, kv=PLAIN),
        "drafted": drafted("random"),
        "quantised": partial(SingleGenerator, loaded.model, draft=None, kv=QUANTISED),
        "quantised and drafted": drafted("random", QUANTISED),
        "quantised later": partial(
            SingleGenerator, loaded.model, draft=None, kv=replace(QUANTISED, quantized_start=30)
        ),
        "rotating": partial(SingleGenerator, rotating.model, draft=None, kv=ROTATING),
    }


KINDS = ["plain", "drafted", "quantised", "quantised and drafted", "quantised later", "rotating"]


@pytest.mark.parametrize("at", [1, 6, 17])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_extracted_can_be_inserted(
    loaded: LoadedModel, makers: dict[str, MakeGenerator], kind: str, at: int
) -> None:
    """The copy covers what was given but for the last token, and goes on as the row itself does."""
    generator = makers[kind]()
    row = row_input(loaded, generation(PROMPT, temperature=1.0, seed=9))
    uid = generator.insert(row)
    given = ids_of(steps(generator, at))
    kept = generator.extract(uid)
    assert kept is not None
    cache, tokens = kept
    known = row.tokens + given
    assert tokens == known[:-1]
    copied = mx.concatenate([part.flatten().astype(mx.float32) for part in arrays(cache)])
    mx.eval(copied)

    rest = ids_of(steps(generator, 12))
    again = mx.concatenate([part.flatten().astype(mx.float32) for part in arrays(cache)])
    assert mx.array_equal(copied, again)
    generator.remove(uid)
    assert generator.kv_bytes == 0
    generator.insert(replace(row, tokens=known[-1:], cache=cache, covered=tokens))
    assert ids_of(steps(generator, 12))[:12] == rest[:12]


def arrays(cache: list[Any]) -> list[mx.array]:
    held = [part for layer in cache for part in (layer.keys, layer.values)]
    return [array for part in held for array in (part if isinstance(part, tuple | list) else (part,))]


@pytest.mark.parametrize("kind", ["plain", "drafted", "quantised"])
def test_an_extracted_cache_can_be_cut(
    loaded: LoadedModel, makers: dict[str, MakeGenerator], kind: str
) -> None:
    """It holds nothing but the tokens, and gives up as many as one likes."""
    generator = makers[kind]()
    row = row_input(loaded, generation(PROMPT))
    uid = generator.insert(row)
    given = ids_of(steps(generator, 8))
    kept = generator.extract(uid)
    assert kept is not None
    parked = Parked(*kept)
    assert parked.nbytes < generator.kv_bytes
    assert all(part.shape[2] == len(parked.tokens) for part in arrays(parked.cache))
    whole = row.tokens + given
    assert parked.trim_to(len(row.tokens) + 2)
    generator.remove(uid)
    generator.insert(
        replace(row, tokens=whole[len(parked.tokens) :], cache=parked.cache, covered=parked.tokens)
    )
    # What was given is in the row again: the next token is the one after it.
    undisturbed = makers[kind]()
    undisturbed.insert(row)
    reference = ids_of(steps(undisturbed, len(given) + 4))
    assert ids_of(steps(generator, 4))[:4] == reference[len(given) : len(given) + 4]


def test_a_row_in_the_middle_of_its_prompt(loaded: LoadedModel, makers: dict[str, MakeGenerator]) -> None:
    generator = makers["drafted"]()
    row = row_input(loaded, generation(PROMPT))
    uid = generator.insert(row)
    generator.next(7)
    kept = generator.extract(uid)
    assert kept is not None
    assert kept[1] == row.tokens[:7]
    assert {layer.offset for layer in kept[0]} == {7}


def test_a_quantised_cache_is_smaller(loaded: LoadedModel, makers: dict[str, MakeGenerator]) -> None:
    sizes = {}
    for kind in ("plain", "quantised", "quantised later"):
        generator = makers[kind]()
        uid = generator.insert(row_input(loaded, generation(PROMPT)))
        generator.next(16)
        kept = generator.extract(uid)
        assert kept is not None
        sizes[kind] = Parked(*kept).nbytes
        assert sizes[kind] == 16 * (loaded.info.kv_bytes_per_token if kind != "quantised" else 640)
    # 8 of 32 bits, and two float32 for each group of 32.
    assert sizes["quantised"] == sizes["plain"] * 10 / 32


def test_a_quantised_row_runs_and_resumes_through_the_loop(
    drive: Drive, makers: dict[str, MakeGenerator]
) -> None:
    undisturbed = drive(makers["quantised"]).run(requests())
    for budget in (0, 2**30):
        driver = drive(makers["quantised"], react=pause_and_resume, max_parked_kv_bytes=budget)
        sinks = driver.run(requests())
        assert [sink.finished.completion_tokens for sink in sinks] == [
            sink.finished.completion_tokens for sink in undisturbed
        ]
        if budget:
            assert_same(sinks, undisturbed)


def test_a_rotating_cache_stays_bounded(loaded: LoadedModel, makers: dict[str, MakeGenerator]) -> None:
    generator = makers["rotating"]()
    row = row_input(loaded, generation(PROMPT), tokens=list(range(100)), prompt_tokens=100)
    uid = generator.insert(row)
    sizes = []
    for _ in range(60):
        generator.next(16)
        sizes.append(generator.kv_bytes)
    kept = generator.extract(uid)
    assert kept is not None
    assert {part.shape[2] for part in arrays(kept[0])} == {ROTATING.max_tokens}
    assert len(kept[1]) > ROTATING.max_tokens
    # The slice of a prompt is beside what is kept until the next step.
    assert max(sizes) <= (ROTATING.max_tokens + 16 - 1) * 512


@pytest.mark.parametrize(
    ("options", "bytes_per_token"),
    [
        ({}, 2048),
        ({"kv_bits": 8}, 640),
        ({"kv_bits": 4}, 384),
        ({"kv_bits": 4, "quantized_kv_start": 50}, 2048),
        ({"draft_model": "embedded"}, 4096),
        ({"draft_model": "embedded", "kv_bits": 8}, 2048 + 640),
    ],
    ids=str,
)
def test_kv_bytes_per_token_are_those_of_the_options(options: dict[str, Any], bytes_per_token: int) -> None:
    worker = replace(WORKER, max_batch_rows=1, kv_group_size=32, **options)
    loaded = load_model(worker)
    assert loaded.info.kv_bytes_per_token == bytes_per_token
    maker = generator_maker(loaded, worker)
    assert isinstance(maker(), SingleGenerator if options else RowGenerator)
    assert warm_up(maker, VOCABULARY, max_batch_rows=1) > 0


def test_a_model_that_cannot_be_batched_runs_alone(loaded: LoadedModel, directory: Path) -> None:
    worker = replace(WORKER, model=make_model(directory / "llama4", "llama4"), max_batch_rows=1)
    chunked = load_model(worker)
    maker = generator_maker(chunked, worker)
    generator = maker()
    assert isinstance(generator, SingleGenerator)
    row = row_input(loaded, generation(PROMPT))
    uid = generator.insert(row)
    given = ids_of(steps(generator, 4))
    kept = generator.extract(uid)
    assert kept is not None
    rest = ids_of(steps(generator, 30))
    generator.remove(uid)
    generator.insert(replace(row, tokens=given[-1:], cache=kept[0], covered=kept[1]))
    assert ids_of(steps(generator, 30)) == rest
