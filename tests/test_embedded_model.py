"""The embedded model: its corpus, its tokenizer, its files, and what it writes."""

import json
import re
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from training.corpus import Chat, documents
from training.stories import EMOJIS, PRONOUNS, Author, any_hero, story
from training.tokenizer import ASSISTANT, BOS, EOS, USER, plain_text, render
from training.words import ANIMALS

MODEL_FOLDER = Path(__file__).parent.parent / "engine" / "embedded"
SEED = 20_000
WORD = re.compile(r"[^\W_]+")


@cache
def corpus_texts(count: int) -> tuple[str, ...]:
    return tuple(plain_text(document) for document in islice(documents(SEED), count))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_FOLDER, local_files_only=True)


@pytest.fixture(scope="module")
def loaded(mlx: None) -> tuple[Any, Any]:
    from mlx_lm import load

    model, tokenizer = load(str(MODEL_FOLDER))
    return model, tokenizer


def generated(loaded: tuple[Any, Any], prompt: list[int], max_tokens: int) -> list[int]:
    from mlx_lm import stream_generate

    model, tokenizer = loaded
    return [response.token for response in stream_generate(model, tokenizer, prompt, max_tokens=max_tokens)]


def chat_prompt(tokenizer: Any, question: str) -> list[int]:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_corpus_repeats_for_a_seed_and_differs_between_seeds() -> None:
    assert list(islice(documents(3), 200)) == list(islice(documents(3), 200))
    assert list(islice(documents(3), 200)) != list(islice(documents(4), 200))


def test_corpus_text_is_well_formed() -> None:
    for text in corpus_texts(3000):
        assert "  " not in text
        assert not re.search(r"[{}]", text), "a slot was left unfilled"
        assert text == text.strip()
        assert not re.search(r"\b(\w+) \1\b", text), text
        assert not re.search(r"\ba [aeio]|\ban [^aeiou]", text), text
        assert text.count('"') % 2 == 0


def test_stories_end_with_a_full_stop_and_perhaps_an_emoji() -> None:
    emojis = {animal.emoji for animal in ANIMALS if animal.emoji} | set(EMOJIS)
    rng = Author(SEED)
    for _ in range(500):
        text = story(rng)
        stem, _, last = text.rpartition(" ")
        assert (stem if last in emojis else text).endswith((".", "!", "?", '."', '!"', '?"')), text


def test_answers_end_with_terminal_punctuation() -> None:
    for document in islice(documents(SEED), 1000):
        if isinstance(document, Chat):
            assert document.messages[-1].role == "assistant"
            assert re.search(r'[.!?]"?( \S+)?$', document.messages[-1].content)


def test_a_story_keeps_its_hero_and_the_heros_pronoun() -> None:
    rng = Author(SEED)
    for _ in range(500):
        hero = any_hero(rng)
        text = story(rng, hero)
        assert hero.name.removeprefix("the ") in text
        # Quotes may speak of anyone, and other figures come in later: the first pronoun is the hero's.
        narration = re.sub(r'"[^"]*"', "", text)
        first = re.search(r"\b(he|she|his|her|him)\b", narration, re.IGNORECASE)
        if first:
            assert first.group().lower() in PRONOUNS[hero.pronoun].values(), text


@pytest.mark.parametrize(
    "text",
    ["Once upon a time", "Zoë und José 🦊🌟", "¡Hola! Łódź 東京 🐿️", "two  spaces\nand a line", "2+2=4"],
)
def test_tokenizer_round_trips_any_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text


def test_plain_text_begins_with_bos_once(tokenizer: Any) -> None:
    ids = tokenizer.encode("Once upon a time")
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.convert_tokens_to_ids(EOS) == tokenizer.eos_token_id


def test_chat_template_renders_as_in_training(tokenizer: Any) -> None:
    chat = next(d for d in documents(SEED) if isinstance(d, Chat) and len(d.messages) > 2)
    messages = [{"role": message.role, "content": message.content} for message in chat.messages]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == render(chat)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == f"{BOS}{USER}Hi{ASSISTANT}"
    assert tokenizer.encode(prompt, add_special_tokens=False).count(tokenizer.bos_token_id) == 1


def test_weights_are_small_and_float32() -> None:
    path = MODEL_FOLDER / "model.safetensors"
    content = path.read_bytes()
    assert len(content) <= 4_000_000
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F32"}


def test_greedy_text_is_deterministic_and_in_the_corpus_vocabulary(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    prompt = tokenizer.encode("Once upon a time")
    first = generated(loaded, prompt, 60)
    assert first == generated(loaded, prompt, 60)
    text = tokenizer.decode(first, skip_special_tokens=True)
    assert text.startswith(" ")
    # The sixtieth token may end within a word.
    words = WORD.findall(text)[:-1]
    vocabulary = {word for corpus_text in corpus_texts(3000) for word in WORD.findall(corpus_text)}
    assert len(words) > 30
    assert set(words) <= vocabulary


def test_greedy_story_ends_by_itself(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    assert generated(loaded, tokenizer.encode("Once upon a time"), 300)[-1] == tokenizer.eos_token_id


def test_different_prompts_give_different_stories(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    prompts = ("Once upon a time", "The little dragon", "In the deep blue sea", "A girl named Zoë")
    stories = [tokenizer.decode(generated(loaded, tokenizer.encode(prompt), 80)) for prompt in prompts]
    # The last sentences: the plots differ, not only the names.
    assert len({text[-60:] for text in stories}) == len(prompts)


def test_simple_question_is_answered(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    answer = generated(loaded, chat_prompt(tokenizer, "What colour is the sky?"), 40)
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The sky is blue."
