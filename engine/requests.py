"""What a caller asks of an engine. Values are validated for form before; what needs the model is not."""

import msgspec


class TextInput(msgspec.Struct, frozen=True, tag="text"):
    """Text to continue; special tokens are added."""

    text: str


class ChatInput(msgspec.Struct, frozen=True, tag="chat"):
    """A conversation of (role, content), oldest first, rendered with the model's chat template."""

    messages: tuple[tuple[str, str], ...]


class TokenInput(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids as they are."""

    ids: tuple[int, ...]


class TokenisedInput(msgspec.Struct, frozen=True, tag="tokenised"):
    """An input that Engine.prepare has tokenised and checked. field: what errors about it name."""

    ids: tuple[int, ...]
    field: str


class PartsInput(msgspec.Struct, frozen=True, tag="parts"):
    """Text that follows in pieces, by Engine.add_prompt_part."""


ModelInput = TextInput | ChatInput | TokenInput | TokenisedInput | PartsInput


def field_of(model_input: ModelInput) -> str:
    """The field of the request that an input came from, as errors name it."""
    match model_input:
        case TextInput():
            return "prompt"
        case ChatInput():
            return "chat"
        case PartsInput():
            return "prompt_parts"
        case TokenisedInput():
            return model_input.field
    return "tokens.ids"


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is chosen; meanings and ranges as in penstock.v1.SamplingOptions."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    penalty_context_tokens: int
    logit_bias: dict[int, float]
    seed: int
    xtc_probability: float
    xtc_threshold: float


class Stopping(msgspec.Struct, frozen=True):
    """When generation ends; meanings and ranges as in penstock.v1.StoppingOptions.

    max_tokens is None when the engine is to use its default, as much of it as the context has room for.
    """

    max_tokens: int | None
    min_tokens: int
    stop_strings: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    ignore_eos: bool


class GenerationRequest(msgspec.Struct, frozen=True):
    """One stream.

    logprobs: None for none, else how many alternatives besides the chosen token's own. resume_ids:
    output tokens that the caller holds already, from a stream that was lost; the events begin with
    the token after them. cache_salt: streams share cached prefixes only with streams of the same salt.
    prefix_cache: whether it may begin from a cached prefix and leave its own. speculate: whether its first
    token may be sent before it is computed.
    """

    input: ModelInput
    sampling: Sampling
    stopping: Stopping
    logprobs: int | None
    resume_ids: tuple[int, ...]
    cache_salt: str
    prefix_cache: bool
    speculate: bool
