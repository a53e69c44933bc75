"""Two sides of a comparison, run in turn, and what their repetitions come to."""

import math
import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.jobs import Job, Outcome, encode
from benchmarks.processes import Child, cpu_s, machine_busy_s


class Sample(msgspec.Struct, frozen=True):
    """One run of one side.

    measured_cpu_s: CPU seconds of what is measured, all of its processes. client_cpu_s: of the load; None
    where there is none. elsewhere_cores: cores that other programs kept busy meanwhile. All three are None
    where the system does not tell.
    """

    outcome: Outcome
    measured_cpu_s: float | None
    client_cpu_s: float | None
    elsewhere_cores: float | None

    @property
    def tokens_per_s(self) -> float:
        return self.outcome.tokens / self.outcome.elapsed_s


class Side:
    """Something that answers jobs: `asked` gets them, `measured` does the work; perhaps one process.

    changes: fields of every job that are this side's own.
    """

    def __init__(self, asked: Child, measured: Child, target: str = "", **changes: int) -> None:
        self._asked = asked
        self._measured = measured
        self._changes: dict[str, str | int] = {"target": target, **changes}

    def run(self, job: Job) -> Sample:
        job = msgspec.structs.replace(job, **self._changes)
        before, began_s = self._cpu(), time.perf_counter()
        answer = self._asked.ask(encode(job))
        took_s, after = time.perf_counter() - began_s, self._cpu()
        measured, client, machine = (
            None if a is None or b is None else a - b for a, b in zip(after, before, strict=True)
        )
        elsewhere = None
        if measured is not None and client is not None and machine is not None:
            elsewhere = max(0.0, machine - measured - client) / took_s
        if self._asked is self._measured:
            client = None
        return Sample(msgspec.json.decode(answer, type=Outcome), measured, client, elsewhere)

    def _cpu(self) -> tuple[float | None, float | None, float | None]:
        client = [] if self._asked is self._measured else [self._asked.pid]
        return cpu_s([self._measured.pid]), cpu_s(client), machine_busy_s()


def alternate(
    reference: Side, subject: Side, job: Job, *, repetitions: int, limit_s: float
) -> list[tuple[Sample, Sample]]:
    """Run reference, subject, reference, subject ...; stops early, but not before one pair, after limit_s."""
    pairs: list[tuple[Sample, Sample]] = []
    began_s = time.monotonic()
    while len(pairs) < repetitions and (not pairs or time.monotonic() - began_s < limit_s):
        pairs.append((reference.run(job), subject.run(job)))
    return pairs


class Summary(msgspec.Struct, frozen=True):
    """Medians over the repetitions of one side; percentiles over all its first tokens, in milliseconds.

    cpu_us_per_token, client_cpu_us_per_token: CPU microseconds, which is CPU milliseconds for 1,000 tokens.
    """

    tokens_per_s: float
    first_token_p50_ms: float
    first_token_p95_ms: float
    cpu_us_per_token: float | None
    client_cpu_us_per_token: float | None
    tokens_per_chunk: float


def summarise(samples: Sequence[Sample]) -> Summary:
    first_ms = sorted(seconds * 1e3 for sample in samples for seconds in sample.outcome.first_token_s)
    return Summary(
        tokens_per_s=statistics.median(sample.tokens_per_s for sample in samples),
        first_token_p50_ms=percentile(first_ms, 0.5),
        first_token_p95_ms=percentile(first_ms, 0.95),
        cpu_us_per_token=_median_per_token(samples, lambda sample: sample.measured_cpu_s),
        client_cpu_us_per_token=_median_per_token(samples, lambda sample: sample.client_cpu_s),
        tokens_per_chunk=statistics.median(s.outcome.tokens / s.outcome.chunks for s in samples),
    )


def percentile(ascending: Sequence[float], fraction: float) -> float:
    """The smallest value that at least this fraction of the values does not exceed (nearest rank)."""
    return ascending[max(0, math.ceil(fraction * len(ascending)) - 1)]


def _median_per_token(samples: Sequence[Sample], seconds: Callable[[Sample], float | None]) -> float | None:
    per_token = [
        value / sample.outcome.tokens * 1e6 for sample in samples if (value := seconds(sample)) is not None
    ]
    return statistics.median(per_token) if per_token else None


class Comparison(msgspec.Struct, frozen=True):
    """Subject against reference. Ratios are of neighbouring runs: a slow drift of the machine cancels.

    what: what was varied, by name. elsewhere_cores: median of what other programs took, None if unknown.
    """

    what: dict[str, str | int]
    reference: Summary
    subject: Summary
    ratio: float
    ratio_low: float
    ratio_high: float
    elsewhere_cores: float | None
    repetitions: int


def compare(what: dict[str, str | int], pairs: Sequence[tuple[Sample, Sample]]) -> Comparison:
    """ratio: the median over the pairs of subject's tokens/s by reference's; low and high: the extremes."""
    ratios = [subject.tokens_per_s / reference.tokens_per_s for reference, subject in pairs]
    elsewhere = [s.elsewhere_cores for pair in pairs for s in pair if s.elsewhere_cores is not None]
    return Comparison(
        what=what,
        reference=summarise([reference for reference, _ in pairs]),
        subject=summarise([subject for _, subject in pairs]),
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        elsewhere_cores=statistics.median(elsewhere) if elsewhere else None,
        repetitions=len(pairs),
    )
