"""Requests become token ids, or a refusal that names the field."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from engine.contract import EngineError
from engine.requests import ChatInput, GenerationRequest, ModelInput, PartsInput, TextInput, TokenInput
from flowcontrol.reasons import Reason
from tests.engine.requests import generation

if TYPE_CHECKING:
    from engine.mlx_worker.model import LoadedModel
    from engine.mlx_worker.prepare import Preparer

CHAT = ChatInput((("user", "Hi"),))


@pytest.fixture
def preparer(loaded: "LoadedModel") -> "Preparer":
    from engine.mlx_worker.prepare import Preparer

    return Preparer(loaded.tokenizer, loaded.info, loaded.eos_token_ids, default_max_tokens=32)


class StrictTemplateTokenizer:
    """A tokenizer whose chat template refuses what it is given, as many do, and that encodes to nothing."""

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        raise ValueError("Conversation roles must alternate\nuser/assistant")

    def encode(self, text: str, **options: Any) -> list[int]:
        return []


def refusal(preparer: "Preparer", request: GenerationRequest) -> EngineError:
    with pytest.raises(EngineError) as refused:
        preparer.prepare(request)
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert refused.value.message.startswith(f"{refused.value.field}: ")
    return refused.value


def test_text_gets_its_special_tokens_and_chat_those_of_its_template(
    preparer: "Preparer", loaded: "LoadedModel"
) -> None:
    text = preparer.tokenise(TextInput("Hi"))
    chat = preparer.tokenise(CHAT)
    bos = loaded.tokenizer.bos_token_id
    assert text[0] == bos
    assert (chat[0], chat.count(bos)) == (bos, 1)
    assert len(chat) > len(text)
    assert preparer.tokenise(TokenInput((7, 7))) == [7, 7]


def test_a_model_without_template_refuses_chat(loaded: "LoadedModel") -> None:
    from engine.mlx_worker.prepare import Preparer

    info = replace(loaded.info, has_chat_template=False)
    plain = Preparer(loaded.tokenizer, info, loaded.eos_token_ids, default_max_tokens=32)
    error = refusal(plain, generation(CHAT))
    assert error.field == "chat"
    assert "has no chat template; use prompt or tokens" in error.message


def test_what_a_template_raises_is_the_callers_error(loaded: "LoadedModel") -> None:
    from engine.mlx_worker.prepare import Preparer

    strict = Preparer(StrictTemplateTokenizer(), loaded.info, loaded.eos_token_ids, default_max_tokens=32)
    error = refusal(strict, generation(CHAT))
    assert error.field == "chat"
    assert "Conversation roles must alternate" in error.message
    assert refusal(strict, generation(TextInput(""))).field == "prompt"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generation(TokenInput(())), "tokens.ids"),
        (generation(TokenInput((3, 1024))), "tokens.ids"),
        (generation(TokenInput((2**32 - 1,))), "tokens.ids"),
        (generation(top_k=1024), "sampling.top_k"),
        (generation(logit_bias={1: 1.0, 1024: 1.0}), "sampling.logit_bias"),
        (generation(stop_token_ids=(1024,)), "stopping.stop_token_ids"),
        (generation(resume_ids=(1, 1024, 2)), "resume.token_ids"),
        (generation(TokenInput((1,) * 320), max_tokens=1), "tokens.ids"),
        (generation(TokenInput((1,) * 300), max_tokens=21), "stopping.max_tokens"),
        (generation(max_tokens=5, min_tokens=6), "stopping.min_tokens"),
        (generation(max_tokens=None, min_tokens=33), "stopping.min_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_harm_the_batch_is_refused(
    preparer: "Preparer", request_: GenerationRequest, field: str
) -> None:
    error = refusal(preparer, request_)
    assert error.field == field
    assert "allowed: " in error.message


@pytest.mark.parametrize(
    ("prompt_tokens", "wanted", "given"),
    [(10, None, 32), (288, None, 32), (289, None, 31), (319, None, 1), (319, 1, 1), (10, 310, 310)],
)
def test_max_tokens_fit_the_context(
    preparer: "Preparer", prompt_tokens: int, wanted: int | None, given: int
) -> None:
    request = generation(TokenInput((5,) * prompt_tokens), max_tokens=wanted)
    assert preparer.prepare(request).max_tokens == given


@pytest.mark.parametrize("largest", [generation(top_k=1023), generation(TokenInput((1023,)))])
def test_the_last_of_the_vocabulary_is_allowed(preparer: "Preparer", largest: GenerationRequest) -> None:
    assert preparer.prepare(largest).prompt_ids


@pytest.mark.parametrize("model_input", [TextInput("Hi"), CHAT, TokenInput((4,))])
def test_prepare_tokenises_as_tokenise(preparer: "Preparer", model_input: ModelInput) -> None:
    assert preparer.prepare(generation(model_input)).prompt_ids == preparer.tokenise(model_input)


def test_a_prompt_in_pieces_is_not_tokenised_before_it_is_there(preparer: "Preparer") -> None:
    assert refusal(preparer, generation(PartsInput())).field == "prompt_parts"


def test_eos_ends_the_output_unless_it_is_ignored(preparer: "Preparer", loaded: "LoadedModel") -> None:
    eos = tuple(sorted(loaded.eos_token_ids))
    ends = preparer.prepare(generation(stop_token_ids=(7,), ignore_eos=False))
    assert ends.ending_ids == (7, *eos)
    assert preparer.prepare(generation(stop_token_ids=(7,), ignore_eos=True)).ending_ids == (7,)


def test_a_resumed_stream_has_the_default_length_of_the_whole_one(preparer: "Preparer") -> None:
    """Its tokens are part of the output, not of the prompt."""
    request = generation(TokenInput((5,) * 300), max_tokens=None, resume_ids=(6,) * 12)
    assert preparer.prepare(request).max_tokens == 20
