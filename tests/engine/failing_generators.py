"""BatchGenerators that fail on purpose, as a model or mlx-lm might."""

from typing import Any

from mlx_lm.generate import BatchGenerator

POISON_TOKEN_ID = 777


class StepError(RuntimeError):
    """What a model may raise in the middle of a step."""


class PoisonedGenerator(BatchGenerator):  # type: ignore[misc]
    """Raises in every step that computes a row whose prompt holds the poison token.

    When it raises, the model has run: the generator is left as half a step would leave it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._poisoned: set[int] = set()

    def insert(self, prompts: list[list[int]], *args: Any, **options: Any) -> list[int]:
        uids: list[int] = super().insert(prompts, *args, **options)
        self._poisoned |= {uid for uid, ids in zip(uids, prompts, strict=True) if POISON_TOKEN_ID in ids}
        return uids

    def next(self) -> Any:
        responses = super().next()
        if self._poisoned:
            raise StepError("poison")
        return responses


class Faults:
    """At which steps of the main generator to raise. Counts over all generators made with it."""

    def __init__(self, *, at_steps: range | set[int], rows: int = 2) -> None:
        """rows: a step fails only when it has at least so many, so that no row fails alone."""
        self.at_steps = at_steps
        self.rows = rows
        self.steps = 0
        self.raised = 0


class FaultyGenerator(BatchGenerator):  # type: ignore[misc]
    """Raises at the steps that its Faults name, when rows are together."""

    def __init__(self, faults: Faults, **options: Any) -> None:
        super().__init__(**options)
        self._faults = faults
        self._inserted = 0

    def insert(self, prompts: list[list[int]], *args: Any, **options: Any) -> list[int]:
        self._inserted += len(prompts)
        uids: list[int] = super().insert(prompts, *args, **options)
        return uids

    def next(self) -> Any:
        responses = super().next()
        if self._inserted >= self._faults.rows:
            self._faults.steps += 1
            if self._faults.steps in self._faults.at_steps:
                self._faults.raised += 1
                raise StepError("together")
        return responses


class PickyGenerator(BatchGenerator):  # type: ignore[misc]
    """Refuses to insert a prompt with the poison token."""

    def insert(self, prompts: list[list[int]], *args: Any, **options: Any) -> list[int]:
        if any(POISON_TOKEN_ID in ids for ids in prompts):
            raise StepError("not this prompt")
        uids: list[int] = super().insert(prompts, *args, **options)
        return uids
