"""Prompts that are tokenised ahead: a bounded number, for a bounded time, each taken once."""

from collections import OrderedDict

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.warm_prompts import WarmPrompt, WarmPrompts

MAX, TTL_S = 3, 10.0
numbers = st.integers(1, 12)


def prompt(number: int) -> WarmPrompt:
    return WarmPrompt((number,), 0.1)


def test_none_is_kept_where_none_may_be() -> None:
    warm = WarmPrompts(max_prompts=0, ttl_s=TTL_S)
    assert not warm.ask(1, 0.0)
    warm.answer(1, prompt(1))
    assert warm.take(1, 0.0) is None


def test_one_that_is_not_answered_yet_is_forgotten_when_it_is_taken() -> None:
    warm = WarmPrompts(max_prompts=MAX, ttl_s=TTL_S)
    assert warm.ask(1, 0.0)
    assert warm.take(1, 0.0) is None
    warm.answer(1, prompt(1))
    assert warm.take(1, 0.0) is None


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.warm = WarmPrompts(max_prompts=MAX, ttl_s=TTL_S)
        self.now_s = 0.0
        self.number = 0
        self.model: OrderedDict[int, tuple[float, bool]] = OrderedDict()

    def expire(self) -> None:
        for number, (asked_s, _) in list(self.model.items()):
            if self.now_s - asked_s > TTL_S:
                del self.model[number]

    @rule(wait_s=st.floats(0.0, 8.0))
    def wait(self, wait_s: float) -> None:
        self.now_s += wait_s

    @rule()
    def ask(self) -> None:
        self.number += 1
        assert self.warm.ask(self.number, self.now_s)
        self.expire()
        self.model[self.number] = (self.now_s, False)
        if len(self.model) > MAX:
            self.model.popitem(last=False)

    @rule(number=numbers)
    def answer(self, number: int) -> None:
        self.warm.answer(number, prompt(number))
        if number in self.model:
            self.model[number] = (self.model[number][0], True)

    @rule(number=numbers)
    def take(self, number: int) -> None:
        taken = self.warm.take(number, self.now_s)
        self.expire()
        _, answered = self.model.pop(number, (0.0, False))
        assert taken == (prompt(number) if answered else None)

    @rule(number=numbers)
    def forget(self, number: int) -> None:
        self.warm.forget(number)
        self.model.pop(number, None)

    @invariant()
    def bounded(self) -> None:
        assert len(self.warm) == len(self.model) <= MAX


TestMachine = Machine.TestCase
