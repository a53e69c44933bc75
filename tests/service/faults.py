"""Everything that can be wrong with a start message and is known without the model."""

import math
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """fields: of Start. violated: path of the field at fault. shown: a part of its description."""

    fields: dict[str, Any]
    violated: str
    shown: str


def _sampling(name: str, *values: tuple[float, str]) -> list[Fault]:
    return [Fault({"sampling": {name: value}}, f"start.sampling.{name}", shown) for value, shown in values]


NAN, INF = math.nan, math.inf
_SAMPLING = [
    *_sampling("temperature", (NAN, "got nan"), (INF, "got inf"), (-INF, "got -inf"), (-0.5, "0 to 10")),
    *_sampling("temperature", (10.5, "0 to 10")),
    *_sampling("top_p", (0.0, "above 0"), (1.5, "at most 1"), (NAN, "got nan"), (-0.1, "above 0")),
    *_sampling("min_p", (-0.1, "0 to 1"), (1.1, "0 to 1"), (NAN, "got nan")),
    *_sampling("repetition_penalty", (0.0, "above 0"), (-1.0, "above 0"), (10.5, "10"), (NAN, "got nan")),
    *_sampling("presence_penalty", (-2.5, "-2 to 2"), (2.5, "-2 to 2"), (NAN, "got nan")),
    *_sampling("frequency_penalty", (-2.5, "-2 to 2"), (2.5, "-2 to 2"), (INF, "got inf")),
    *_sampling("penalty_context_tokens", (0, "1 to 4096"), (4097, "1 to 4096")),
    *_sampling("xtc_probability", (-0.1, "0 to 1"), (1.5, "0 to 1"), (NAN, "got nan")),
    *_sampling("xtc_threshold", (0.9, "0 to 0.5"), (-0.1, "0 to 0.5"), (NAN, "got nan")),
    Fault({"sampling": {"logit_bias": {7: NAN}}}, "start.sampling.logit_bias[7]", "got nan"),
    Fault({"sampling": {"logit_bias": {7: 100.5}}}, "start.sampling.logit_bias[7]", "-100 to 100"),
    Fault({"sampling": {"logit_bias": dict.fromkeys(range(1025), 1.0)}}, "start.sampling.logit_bias", "1024"),
]
_STOPPING = [
    Fault({"stopping": {"max_tokens": 0}}, "start.stopping.max_tokens", "at least 1"),
    Fault({"stopping": {"max_tokens": 3, "min_tokens": 4}}, "start.stopping.min_tokens", "max_tokens, 3"),
    Fault({"stopping": {"stop_strings": ["x"] * 17}}, "start.stopping.stop_strings", "at most 16"),
    Fault({"stopping": {"stop_strings": ["x", ""]}}, "start.stopping.stop_strings[1]", "1 to 256"),
    Fault({"stopping": {"stop_strings": ["x" * 257]}}, "start.stopping.stop_strings[0]", "257 characters"),
    Fault({"stopping": {"stop_token_ids": [1] * 65}}, "start.stopping.stop_token_ids", "at most 64"),
]
_OTHERS = [
    Fault({"priority": 9}, "start.priority", "9"),
    Fault({"output": {"logprobs": 21}}, "start.output.logprobs", "0 to 20"),
    Fault({"cache_salt": "s" * 129}, "start.cache_salt", "at most 128"),
    Fault({"request_id": "r" * 129}, "start.request_id", "at most 128"),
    Fault(
        {"resume": {"token_ids": [1], "last_seq": 3}, "sampling": {"seed": 1}},
        "start.resume.last_seq",
        "at most 2",
    ),
]
_INPUTS = [
    Fault({"prompt": ""}, "start.prompt", "at least 1"),
    Fault({}, "start.input", "one of prompt, chat, tokens"),
    Fault({"chat": {}}, "start.chat.messages", "at least 1"),
    Fault({"chat": {"messages": [{"role": "user"}, {"role": "robot"}]}}, "start.chat.messages[1].role", "ro"),
    Fault({"tokens": {}}, "start.tokens.ids", "at least 1"),
]
WITH_AN_INPUT = _SAMPLING + _STOPPING + _OTHERS
"""To be put beside a good input."""
OF_THE_INPUT = _INPUTS
"""The input itself is at fault."""


def name(fault: Fault) -> str:
    return f"{fault.violated}-{fault.shown}"
