"""The registry against a reference list of streams."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flowcontrol.reasons import Reason
from flowcontrol.registry import Place, StreamRegistry
from flowcontrol.stream_state import Input, State, next_state


class RegistryMatchesTheReference(RuleBasedStateMachine):
    """The reference keeps every stream that was ever admitted, with its state."""

    @initialize(max_active=st.integers(1, 4))
    def begin(self, max_active: int) -> None:
        self.registry = StreamRegistry(max_active)
        self.max_active = max_active
        self.streams: list[tuple[Place, State]] = []
        self.refused = 0
        self.slow: set[Place] = set()

    def live(self) -> int:
        return sum(not state.ended for _, state in self.streams)

    @rule()
    def admit(self) -> None:
        room = self.live() < self.max_active
        place = self.registry.admit()
        assert (place is not None) == room
        if place is None:
            self.refused += 1
        else:
            assert place.state is State.QUEUED
            self.streams.append((place, State.QUEUED))

    @rule(data=st.data(), happened=st.sampled_from(Input))
    def apply(self, data: st.DataObject, happened: Input) -> None:
        if not self.streams:
            return
        index = data.draw(st.integers(0, len(self.streams) - 1))
        place, state = self.streams[index]
        after = next_state(state, happened)
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
        assert snapshot.max_active == self.max_active
        assert snapshot.active == self.registry.active == self.live() <= self.max_active
        assert snapshot.active_by_state == {s: states.count(s) for s in State if not s.ended}
        assert snapshot.ended_by_state == {s: states.count(s) for s in State if s.ended}
        assert snapshot.refused == self.refused
        assert snapshot.slow_consumers == len(self.slow)


TestRegistryMatchesTheReference = RegistryMatchesTheReference.TestCase


@pytest.mark.parametrize("end", [Input.FINISH, Input.CANCEL, Input.FAIL])
def test_the_place_is_free_in_the_call_that_ends_the_stream(end: Input) -> None:
    registry = StreamRegistry(1)
    place = registry.admit()
    assert place is not None
    assert registry.admit() is None
    place.apply(end)
    assert registry.active == 0
    assert registry.admit() is not None
    # A second end of the first stream must not free the place of the second one.
    place.apply(end)
    assert registry.active == 1


@pytest.mark.parametrize("max_active", [0, -3])
def test_a_registry_has_at_least_one_place(max_active: int) -> None:
    with pytest.raises(ValueError, match="max_active must be at least 1"):
        StreamRegistry(max_active)


def test_a_reason_is_written_as_its_name() -> None:
    """Clients compare ErrorInfo.reason with these names; a change breaks them."""
    assert all(reason.value == reason.name for reason in Reason)
