"""What a message costs: the full servicer without a model against a handler that only writes."""

from collections.abc import Iterator

from benchmarks.jobs import Job
from benchmarks.measure import Comparison, Side, alternate, compare
from benchmarks.processes import Child
from benchmarks.scripted_server import ScriptedOptions

# Tokens that each of so many streams gets in a run: enough for a run of about two seconds.
_TOKENS = {1: 15_000, 10: 2_500, 100: 300}
# Cases as (streams, most tokens in a message). The target is about one token in each message; the last
# case shows what the server does by default when its readers or its CPU do not keep up.
_CASES = ((1, 1), (10, 1), (100, 1), (100, 16))


def run(*, quick: bool, repetitions: int, limit_s: float) -> Iterator[Comparison]:
    """The bare handler always writes one token a message. quick: shorter runs. limit_s: as in serving.run."""
    with (
        Child("benchmarks.scripted_server", ScriptedOptions(kind="bare").encoded()) as bare_server,
        Child("benchmarks.scripted_server", ScriptedOptions().encoded()) as full_server,
        Child("benchmarks.load_client") as client,
    ):
        client.read_line()
        bare = Side(client, bare_server, bare_server.read_line())
        full = Side(client, full_server, full_server.read_line())
        for streams, tokens_per_message in _CASES:
            max_tokens = _TOKENS[streams] // (3 if quick else 1)
            job = Job(streams, ["Count."] * streams, max_tokens, tokens_per_message)
            for side in (bare, full):
                side.run(job)  # Connections, caches and the bare handler's chunks are made here.
            pairs = alternate(bare, full, job, repetitions=repetitions, limit_s=limit_s)
            yield compare({"streams": streams, "tokens/message": f"<= {tokens_per_message}"}, pairs)
