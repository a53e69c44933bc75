"""The registry against a reference list of streams."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcontrol.registry import BackpressureSnapshot, Place, StreamRegistry
from flowcontrol.stream_state import Input, State, next_state


class RegistryMatchesTheReference(RuleBasedStateMachine):
    """The reference keeps every stream that was ever admitted, with its state."""

    @initialize()
    def begin(self) -> None:
        self.registry = StreamRegistry()
        self.streams: list[tuple[Place, State]] = []
        self.slow: set[Place] = set()
        self.stalls = 0

    def live(self) -> int:
        return sum(not state.ended for _, state in self.streams)

    @rule()
    def admit(self) -> None:
        place = self.registry.admit()
        assert place.state is State.QUEUED
        self.streams.append((place, State.QUEUED))

    @rule(data=st.data(), happened=st.sampled_from(Input))
    def apply(self, data: st.DataObject, happened: Input) -> None:
        if not self.streams:
            return
        index = data.draw(st.integers(0, len(self.streams) - 1))
        place, state = self.streams[index]
        after = next_state(state, happened)
        self.stalls += after is State.STALLED and state is not State.STALLED
        assert place.apply(happened) is after
        assert place.state is after
        self.streams[index] = (place, after)

    @rule(data=st.data())
    def found_slow(self, data: st.DataObject) -> None:
        """Also again, and when the stream has ended meanwhile."""
        if self.streams:
            place, _ = data.draw(st.sampled_from(self.streams))
            place.found_slow()
            self.slow.add(place)

    @invariant()
    def counts_are_the_references(self) -> None:
        states = [state for _, state in self.streams]
        snapshot = self.registry.snapshot()
        assert snapshot.active == self.registry.active == self.live()
        assert snapshot.active_by_state == {s: states.count(s) for s in State if not s.ended}
        assert snapshot.ended_by_state == {s: states.count(s) for s in State if s.ended}
        assert snapshot.slow_consumers == len(self.slow)
        assert snapshot.backpressure.stalls == self.stalls


def test_backpressure_is_counted_over_all_streams() -> None:
    registry = StreamRegistry()
    places = [registry.admit(), registry.admit()]
    for place in places:
        place.parked()
        place.coalesced(3)
        place.stall_ended(1.5)
        for happened in (Input.TOKEN, Input.CREDIT_SPENT, Input.CREDIT_SPENT):
            place.apply(happened)
    places[0].resumed()
    counted = BackpressureSnapshot(stalls=2, stalled_s=3.0, parks=2, resumes=1, coalesced_tokens=6)
    assert registry.snapshot().backpressure == counted


TestRegistryMatchesTheReference = RegistryMatchesTheReference.TestCase


@pytest.mark.parametrize("end", [Input.FINISH, Input.CANCEL, Input.FAIL])
def test_the_place_is_free_in_the_call_that_ends_the_stream(end: Input) -> None:
    registry = StreamRegistry()
    place = registry.admit()
    place.apply(end)
    assert registry.active == 0
    registry.admit()
    # A second end of the first stream must not free the place of the second one.
    place.apply(end)
    assert registry.active == 1
