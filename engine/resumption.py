"""Takes up a stream that was lost: the output tokens that the caller holds are replayed."""

from collections.abc import Callable, Container

from engine.contract import EngineError
from engine.events import FinishReason
from engine.requests import GenerationRequest
from engine.stop_strings import StopStringMatcher
from flowcontrol.reasons import Reason

FIELD = "resume.token_ids"


def replay(
    request: GenerationRequest,
    *,
    max_tokens: int,
    ending_ids: Container[int],
    text_of: Callable[[int], str],
    stops: StopStringMatcher,
) -> FinishReason | None:
    """Bring `stops` to where the lost stream was. The text is dropped: the caller holds it.

    text_of: gives the text that became certain with a token; called once for each, in order.
    Returns why the stream has ended with these tokens, None when it goes on. Raises EngineError when
    it had ended before the last of them, since no stream gives such tokens.
    """
    ids, min_tokens = request.resume_ids, request.stopping.min_tokens
    if len(ids) > max_tokens:
        raise _beyond_the_end(f"has {len(ids)} tokens; allowed: at most max_tokens, {max_tokens}")
    for count, token_id in enumerate(ids, start=1):
        if stops.stopped_by:
            raise _beyond_the_end(f"goes on at index {count - 1}, after the stop string {stops.stopped_by!r}")
        if count > min_tokens and token_id in ending_ids:
            raise _beyond_the_end(f"has {token_id} at index {count - 1}, which ends the stream")
        stops.push(text_of(token_id), may_stop=count >= min_tokens)
    if stops.stopped_by:
        return FinishReason.STOP
    return FinishReason.LENGTH if len(ids) == max_tokens else None


def _beyond_the_end(message: str) -> EngineError:
    return EngineError(Reason.INVALID_REQUEST, f"{FIELD}: {message}", field=FIELD)
