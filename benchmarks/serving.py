"""What serving costs: tokens through Generate against the same tokens from the engine alone."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product

import msgspec

from benchmarks.jobs import Job
from benchmarks.measure import Comparison, Side, alternate, compare
from benchmarks.processes import Child
from benchmarks.systems import random_model, wait_until_serving
from config import load
from engine.mlx_worker.cpu_blas import AUTO, NONE, load_cpu_blas
from engine.options import WorkerOptions
from service.assembly import LISTENING
from service.assembly_options import worker_options

MAX_TOKENS = 128
# Prompts that each stream has answered, one after the other, in a run: enough for a run of some seconds.
_ROUNDS = {1: 4, 8: 2, 32: 2}
_WORDS = ("little", "dragon", "garden", "deep", "blue", "sea", "old", "tree", "happy", "friend", "river")
_PROMPT_WORDS = 19


def prompts(count: int, seed: int = 0) -> list[str]:
    """Distinct texts of about 30 tokens, the same ones each time for the same seed."""
    draw = random.Random(str(seed))  # Of numbers, Python drops the sign.
    return ["Once upon a time " + " ".join(draw.choices(_WORDS, k=_PROMPT_WORDS)) for _ in range(count)]


def run(*, quick: bool, repetitions: int, limit_s: float) -> Iterator[Comparison]:
    """quick: fewer cases and shorter runs. limit_s: for each case, when to stop repeating it."""
    with random_model() as directory:
        models = {"random 5.3 M": directory} if quick else {"embedded": "embedded", "random 5.3 M": directory}
        # Asked here for the name only: this process runs no model.
        openblas = load_cpu_blas(AUTO) != ""
        choices = (AUTO, NONE) if openblas and not quick else (AUTO,)
        for (name, model), choice in product(models.items(), choices):
            fast = openblas and choice == AUTO
            # MLX's own product is several times slower and tells less: it hides what serving costs.
            case_s = limit_s if fast else limit_s / 2
            with _both(model, choice) as (engine, server):
                for streams in (1, 32) if quick else _ROUNDS:
                    rounds = _ROUNDS[streams] if fast and not quick else 1
                    job = Job(streams, prompts(streams * rounds), MAX_TOKENS)
                    pairs = alternate(engine, server, job, repetitions=repetitions, limit_s=case_s)
                    blas = "OpenBLAS" if fast else "MLX's own"
                    yield compare({"model": name, "BLAS": blas, "streams": streams}, pairs)


@contextmanager
def _both(model: str, cpu_blas: str) -> Iterator[tuple[Side, Side]]:
    """The engine alone and the server, both with the model loaded and used once."""
    options = _options(model, cpu_blas)
    environ = {
        "PENSTOCK_SERVER__PORT": "0",
        "PENSTOCK_TELEMETRY__PROMETHEUS_PORT": "0",
        "PENSTOCK_ENGINE__MODEL": model,
        "PENSTOCK_ENGINE__CPU_BLAS": cpu_blas,
        "PENSTOCK_STREAM_REGISTRY__MAX_ACTIVE_STREAMS": str(max(_ROUNDS)),
        "PENSTOCK_LOGGING__LEVEL": "warning",
    }
    with ExitStack() as stack:
        engine = stack.enter_context(Child("benchmarks.engine_alone", msgspec.json.encode(options).decode()))
        engine.read_line()
        server = stack.enter_context(Child("service", "serve", environ=environ))
        target = server.read_line().removeprefix(LISTENING)
        client = stack.enter_context(Child("benchmarks.load_client"))
        client.read_line()
        wait_until_serving(target)
        sides = Side(engine, engine), Side(client, server, target)
        for side in sides:
            side.run(Job(2, prompts(2), 16))
        yield sides


def _options(model: str, cpu_blas: str) -> WorkerOptions:
    """The server's own defaults for the engine alone, so that both decode the same batches."""
    flags = {"engine": {"model": model, "cpu_blas": cpu_blas}}
    return worker_options(load(None, None, {}, flags).settings, model)
