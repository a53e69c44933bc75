"""Which prompts get how much of a step's budget, and which of them go through the model together."""

from collections.abc import Sequence
from dataclasses import dataclass

# The prompt that waits longest gets this share at least, however many short ones overtake it.
_OLDEST_SHARE = 4
# A slice that does not finish its prompt is worth a pass only from this share of the budget on.
_LEAST_SLICE_SHARE = 4
# Padding: the longest slice of a pass, and the longest text, is at most so many times the shortest.
_MAX_STRETCH = 2


@dataclass(frozen=True, slots=True)
class Slice:
    """The next tokens of a prompt.

    prompt: its place among those that were asked about. covered: tokens before these. joins: with them the
    prompt is ready to be decoded.
    """

    prompt: int
    tokens: int
    covered: int
    joins: bool


def share_out(remaining: Sequence[int], budget: int) -> dict[int, int]:
    """Tokens of each prompt to be computed now, by place; together at most budget, which is at least 1.

    remaining: by prompt, longest waiting first; at least 1 each. The shortest go first, for that lets most
    prompts out soonest, but the longest-waiting prompt always moves on.
    """
    if not remaining:
        return {}
    oldest = min(remaining[0], max(1, budget // _OLDEST_SHARE))
    left = budget - oldest
    given: dict[int, int] = {}
    for place in sorted(range(1, len(remaining)), key=lambda place: remaining[place]):
        tokens = min(remaining[place], left)
        if tokens < remaining[place] and tokens < max(1, budget // _LEAST_SLICE_SHARE):
            break
        given[place] = tokens
        left -= tokens
    given[0] = min(remaining[0], oldest + left)
    return given


def passes(slices: Sequence[Slice], max_rows: int, *, padded: bool) -> list[list[Slice]]:
    """Slices grouped so that each group makes one pass through the model, short ones first.

    Only prompts that are then ready to be decoded share a pass: they go on together, while the others keep
    caches of their own. Those of a pass are of similar length, with what was computed of them before; of
    the same length unless they may be padded.
    """
    groups: list[list[Slice]] = []
    for each in sorted((each for each in slices if each.joins), key=lambda each: each.tokens):
        group = groups[-1] if groups else []
        if group and len(group) < max_rows and _alike(group[0], each, padded):
            group.append(each)
        else:
            groups.append([each])
    return groups + [[each] for each in slices if not each.joins]


def _alike(shorter: Slice, longer: Slice, padded: bool) -> bool:
    if not padded and shorter.tokens != longer.tokens:
        return False
    totals = sorted((shorter.covered + shorter.tokens, longer.covered + longer.tokens))
    return longer.tokens <= _MAX_STRETCH * shorter.tokens and totals[1] <= _MAX_STRETCH * totals[0]
