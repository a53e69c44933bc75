"""Turns a request into token ids and checks what only the model can tell.

Everything that would make MLX or mlx-lm fail in the middle of a step is refused here: an exception
in a step costs the whole batch, and some ids crash the process.
"""

from collections.abc import Collection
from dataclasses import dataclass

from mlx_lm.tokenizer_utils import TokenizerWrapper

from engine.contract import EngineError, ModelInfo
from engine.requests import (
    ChatInput,
    GenerationRequest,
    ModelInput,
    PartsInput,
    TextInput,
    TokenisedInput,
    field_of,
)
from engine.resumption import FIELD as RESUME_FIELD
from flowcontrol.reasons import Reason


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that the model can run.

    max_tokens: most output tokens, at least 1. ending_ids: tokens that end the output.
    """

    request: GenerationRequest
    prompt_ids: list[int]
    max_tokens: int
    ending_ids: tuple[int, ...]


def invalid(field: str, message: str) -> EngineError:
    return EngineError(Reason.INVALID_REQUEST, f"{field}: {message}", field=field)


class Preparer:
    """Tokenises and checks. Used in other threads than the model's, by several at a time."""

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        model: ModelInfo,
        eos_token_ids: Collection[int],
        *,
        default_max_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._eos_token_ids = tuple(sorted(eos_token_ids))
        self._default_max_tokens = default_max_tokens

    def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """Raises EngineError with the field at fault."""
        self.check_ids(request)
        return self.with_prompt(request, self.tokenise(request.input))

    def with_prompt(self, request: GenerationRequest, prompt_ids: list[int]) -> PreparedRequest:
        """The request with its prompt, after check_ids. Raises EngineError where they do not fit."""
        field = field_of(request.input)
        if not prompt_ids:
            raise invalid(field, "has no tokens; allowed: at least 1")
        self.check_room(field, len(prompt_ids))
        ending_ids = request.stopping.stop_token_ids
        if not request.stopping.ignore_eos:
            ending_ids += self._eos_token_ids
        return PreparedRequest(
            request, prompt_ids, self._max_tokens(request, len(prompt_ids)), tuple(ending_ids)
        )

    def with_open_prompt(self, request: GenerationRequest, first_ids: list[int]) -> PreparedRequest:
        """The request with the first tokens of its prompt, for computing these."""
        return PreparedRequest(request, first_ids, max_tokens=1, ending_ids=())

    def tokenise(self, model_input: ModelInput) -> list[int]:
        """Token ids of an input, at least one. Raises EngineError."""
        field = field_of(model_input)
        if isinstance(model_input, TextInput):
            ids = self.tokenise_text(model_input.text)
        elif isinstance(model_input, ChatInput):
            ids = self._tokenise_chat(model_input)
        elif isinstance(model_input, TokenisedInput):
            ids = list(model_input.ids)
        elif isinstance(model_input, PartsInput):
            raise invalid(field, "cannot be tokenised before it is there")
        else:
            ids = list(model_input.ids)
            self._check_range(field, max(ids, default=0))
        if not ids:
            raise invalid(field, "has no tokens; allowed: at least 1")
        return ids

    def tokenise_text(self, text: str) -> list[int]:
        """Token ids of a plain prompt, special tokens added; perhaps none."""
        return list(self._tokenizer.encode(text))

    def _tokenise_chat(self, chat: ChatInput) -> list[int]:
        if not self._model.has_chat_template:
            raise invalid("chat", f"the model {self._model.name} has no chat template; use prompt or tokens")
        messages = [{"role": role, "content": content} for role, content in chat.messages]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # A template is a program of the model's author: it raises what it likes.
            raise invalid("chat", f"the model's chat template refuses these messages: {error}") from error
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def check_ids(self, request: GenerationRequest) -> None:
        """Raises EngineError for what can be told without the prompt."""
        sampling, stopping = request.sampling, request.stopping
        self._check_range("sampling.top_k", sampling.top_k)
        self._check_range("sampling.logit_bias", max(sampling.logit_bias, default=0))
        self._check_range("stopping.stop_token_ids", max(stopping.stop_token_ids, default=0))
        self._check_range(RESUME_FIELD, max(request.resume_ids, default=0))

    def _check_range(self, field: str, largest: int) -> None:
        if largest >= self._model.vocab_size:
            raise invalid(
                field, f"got {largest}; allowed: below the vocabulary size, {self._model.vocab_size}"
            )

    def check_room(self, field: str, prompt_tokens: int) -> None:
        """Raises EngineError for a prompt that leaves no room for output."""
        most = self._model.context_tokens - 1
        if prompt_tokens > most:
            raise invalid(
                field, f"has {prompt_tokens} tokens; allowed: at most {most}, to leave room for output"
            )

    def _max_tokens(self, request: GenerationRequest, prompt_tokens: int) -> int:
        context = self._model.context_tokens
        room = context - prompt_tokens
        wanted = request.stopping.max_tokens
        if wanted is not None and wanted > room:
            raise invalid(
                "stopping.max_tokens",
                f"got {wanted}; allowed: at most {room} with a prompt of {prompt_tokens} tokens, "
                f"as the context holds {context}",
            )
        max_tokens = min(self._default_max_tokens, room) if wanted is None else wanted
        if request.stopping.min_tokens > max_tokens:
            raise invalid(
                "stopping.min_tokens",
                f"got {request.stopping.min_tokens}; allowed: at most max_tokens, {max_tokens}",
            )
        return max_tokens
