"""Which generator a worker uses."""

from functools import partial

from engine.mlx_worker.batch import MakeGenerator
from engine.mlx_worker.kv_cache import PLAIN, KvForm, can_batch
from engine.mlx_worker.model import LoadedModel
from engine.mlx_worker.row_generator import RowGenerator
from engine.mlx_worker.single_generator import Draft, SingleGenerator
from engine.options import WorkerOptions


def generator_maker(loaded: LoadedModel, options: WorkerOptions) -> MakeGenerator:
    """Makes batches; or single rows, where the options or the model's KV cache allow of nothing else.

    The options must have passed start_checks.
    """
    kv = KvForm.of(options)
    if loaded.draft is None and not kv.bits and not kv.max_tokens and can_batch(PLAIN.make(loaded.model)):
        return partial(
            RowGenerator,
            loaded.model,
            max_rows=options.max_batch_rows,
            prefill_rows=options.prefill_batch_rows,
        )
    draft = Draft(loaded.draft, options.draft_tokens) if loaded.draft is not None else None
    return partial(SingleGenerator, loaded.model, draft=draft, kv=kv)
