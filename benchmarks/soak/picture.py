"""A soak run as a picture."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No display is needed, nor looked for.
from matplotlib import pyplot

from benchmarks.soak.samples import Sample, every, quantile

_SIZE_INCHES, _DPI = (13.0, 7.0), 100
_TTFT_STEP_S = 15.0
_LONGEST_SHOWN_S = 60.0


def draw(path: Path, samples: Sequence[Sample], *, allowed: float, title: str) -> None:
    """Write the panels. allowed: share of the streams that may end by a fault of the server."""
    minutes = [each.at_s / 60 for each in samples]
    figure, places = pyplot.subplots(2, 3, figsize=_SIZE_INCHES)
    figure.suptitle(title)
    memory, open_things, streams, ttft, rate, budget = places.flat
    memory.plot(minutes, [each.rss_bytes / 1e6 for each in samples], label="server")
    memory.plot(minutes, [each.workers_rss_bytes / 1e6 for each in samples], label="workers")
    memory.set(title="Resident memory", ylabel="MB")
    open_things.plot(minutes, [each.files for each in samples], label="file descriptors")
    open_things.plot(minutes, [each.tasks for each in samples], label="tasks")
    open_things.set(title="Descriptors and tasks")
    streams.plot(minutes, [each.active for each in samples])
    streams.set(title="Active streams")
    steps = every(samples, _TTFT_STEP_S)
    for share, name in ((0.5, "p50"), (0.95, "p95")):
        values = [quantile(a.ttft, b.ttft, share) for a, b in pairwise(steps)]
        shown = [
            (b.at_s / 60, value) for b, value in zip(steps[1:], values, strict=True) if value is not None
        ]
        ttft.plot([at for at, _ in shown], [min(value, _LONGEST_SHOWN_S) for _, value in shown], label=name)
    ttft.set(title=f"Time to first token, over {_TTFT_STEP_S:g} s", ylabel="s (upper bound of the bucket)")
    rates = [(b.at_s / 60, (b.tokens - a.tokens) / (b.at_s - a.at_s)) for a, b in pairwise(steps)]
    rate.plot([at for at, _ in rates], [value for _, value in rates])
    rate.set(title="Throughput", ylabel="tokens/s")
    used = [each.server_faults / (allowed * each.ended) if each.ended else 0.0 for each in samples]
    budget.plot(minutes, used, label="used")
    budget.axhline(1.0, linestyle="--", linewidth=1, color="black", label="all of it")
    budget.set(title=f"Error budget: {allowed:.1%} ended by the server")
    for axes in places.flat:
        axes.set_xlabel("minutes")
        axes.set_ylim(bottom=0)
        if len(axes.lines) > 1:
            axes.legend(fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    pyplot.close(figure)
