"""Stop strings are found wherever the text is cut, against references that do it the slow way."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.stop_strings import StopStringMatcher

# Few letters, so that stop strings overlap, nest and occur.
TEXTS = st.text("ab🦊", max_size=24)
STOPS = st.lists(st.text("ab🦊", min_size=1, max_size=5), max_size=3)


def by_definition(text: str, stops: list[str]) -> tuple[str, str]:
    """(text before the stop string, the stop string): the first that is complete, the longest of those."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, ""


def run(pieces: list[str], stops: list[str]) -> tuple[str, str]:
    matcher = StopStringMatcher(stops)
    text = "".join([*map(matcher.push, pieces), matcher.flush()])
    return text, matcher.stopped_by


def cut(text: str, at: list[int]) -> list[str]:
    places = [0, *sorted(place % (len(text) + 1) for place in at), len(text)]
    return [text[a:b] for a, b in pairwise(places)]


@given(text=TEXTS, stops=STOPS, at=st.lists(st.integers(0, 100), max_size=6))
def test_result_does_not_depend_on_how_the_text_is_cut(text: str, stops: list[str], at: list[int]) -> None:
    assert run(cut(text, at), stops) == run(list(text), stops) == by_definition(text, stops)


@given(pieces=st.lists(TEXTS, max_size=6), stops=STOPS)
def test_only_a_beginning_of_a_stop_string_is_ever_held_back(pieces: list[str], stops: list[str]) -> None:
    matcher, passed, given_in = StopStringMatcher(stops), "", ""
    for piece in pieces:
        given_in += piece
        passed += matcher.push(piece)
        if matcher.stopped_by:
            break
        held = given_in.removeprefix(passed)
        assert passed + held == given_in
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)
    else:
        assert passed + matcher.flush() == given_in


@given(before=st.lists(TEXTS, max_size=4), after=st.lists(TEXTS, max_size=4), stops=STOPS)
def test_stop_strings_are_ignored_until_they_may_stop(
    before: list[str], after: list[str], stops: list[str]
) -> None:
    matcher = StopStringMatcher(stops)
    assert [matcher.push(piece, may_stop=False) for piece in before] == before
    assert not matcher.stopped_by
    rest = "".join([*map(matcher.push, after), matcher.flush()])
    assert (rest, matcher.stopped_by) == by_definition("".join(after), stops)


def test_what_was_held_is_released_when_stopping_becomes_forbidden() -> None:
    matcher = StopStringMatcher(["abc"])
    assert matcher.push("xab") == "x"
    assert matcher.push("c", may_stop=False) == "abc"


def test_text_after_a_stop_string_is_dropped() -> None:
    matcher = StopStringMatcher(["b"])
    assert matcher.push("abc") == "a"
    assert matcher.push("def") == ""
    assert matcher.push("ghi", may_stop=False) == ""
    assert matcher.flush() == ""
    assert matcher.stopped_by == "b"


def test_flush_releases_once() -> None:
    matcher = StopStringMatcher(["stop"])
    matcher.push("st")
    assert [matcher.flush(), matcher.flush()] == ["st", ""]


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        StopStringMatcher(["a", ""])
