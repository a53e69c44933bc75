"""Generators that fail on purpose, as a model or mlx-lm might."""

from typing import Any

from engine.mlx_worker.generator import RowInput, Step
from engine.mlx_worker.row_generator import RowGenerator

POISON_TOKEN_ID = 777


class StepError(RuntimeError):
    """What a model may raise in the middle of a step."""


class PoisonedGenerator(RowGenerator):
    """Raises in every step that computes a row whose prompt holds the poison token.

    When it raises, the model has run: the generator is left as half a step would leave it.
    """

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self._poisoned = False

    def insert(self, row: RowInput) -> int:
        self._poisoned |= POISON_TOKEN_ID in row.tokens
        return super().insert(row)

    def next(self, prefill_tokens: int) -> Step:
        step = super().next(prefill_tokens)
        if self._poisoned:
            raise StepError("poison")
        return step


class Faults:
    """At which steps of the main generator to raise. Counts over all generators made with it."""

    def __init__(self, *, at_steps: range | set[int], rows: int = 2) -> None:
        """rows: a step fails only when it has at least so many, so that no row fails alone."""
        self.at_steps = at_steps
        self.rows = rows
        self.steps = 0
        self.raised = 0


class FaultyGenerator(RowGenerator):
    """Raises at the steps that its Faults name, when rows are together."""

    def __init__(self, faults: Faults, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self._faults = faults
        self._inserted = 0

    def insert(self, row: RowInput) -> int:
        self._inserted += 1
        return super().insert(row)

    def next(self, prefill_tokens: int) -> Step:
        step = super().next(prefill_tokens)
        if self._inserted >= self._faults.rows:
            self._faults.steps += 1
            if self._faults.steps in self._faults.at_steps:
                self._faults.raised += 1
                raise StepError("together")
        return step


class PickyGenerator(RowGenerator):
    """Refuses to insert a prompt with the poison token."""

    def insert(self, row: RowInput) -> int:
        if POISON_TOKEN_ID in row.tokens:
            raise StepError("not this prompt")
        return super().insert(row)
