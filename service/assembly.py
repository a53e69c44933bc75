"""Puts the server together from the configuration and runs it until it is told to stop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from config import (
    ConfigError,
    EngineSettings,
    Loaded,
    LoggingSettings,
    Settings,
    TenantSettings,
    load_tenants,
)
from engine import options as engine_options
from engine.coalescing import CoalescingEngine
from engine.contract import Engine, EngineStartError
from engine.model_host import ModelHost
from engine.model_source import NoSuchModelError, resolve
from engine.options import HostOptions, SupervisorOptions, WorkerOptions
from engine.pool_engine import PoolEngine
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.fair_queue import QueueOptions
from flowcontrol.admission.gate import GateOptions
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.admission.tenants import TenantLimits, TenantOptions
from flowcontrol.limits.contract import LimitOptions, StrategyName
from service.options import AdmissionOptions, PoolOptions, ServerOptions, StreamOptions
from service.server import BindError, Server

_log = structlog.get_logger("penstock.assembly")

# How long a worker may take to end when it is told to; it has only a decode step to finish.
_WORKER_STOP_TIMEOUT_S = 5.0
# The line on standard output that says where the server listens; `penstock demo` and tests read it.
LISTENING = "penstock listening on "


def server_options(settings: Settings) -> ServerOptions:
    server = settings.server
    return ServerOptions(
        host=server.host,
        port=server.port,
        max_receive_message_bytes=server.max_receive_message_bytes,
        max_send_message_bytes=server.max_send_message_bytes,
        keepalive_time_ms=server.keepalive_time_ms,
        keepalive_timeout_ms=server.keepalive_timeout_ms,
        drain_grace_s=server.drain_grace_ms / 1e3,
        health_interval_s=server.health_interval_ms / 1e3,
        models_remote_control=settings.models.remote_control,
    )


def stream_options(settings: Settings) -> StreamOptions:
    backpressure = settings.stream_registry.backpressure
    return StreamOptions(
        default_timeout_s=settings.stream_registry.default_timeout_ms / 1e3,
        enforce_credits=backpressure.enabled,
        max_unacked_chunks=backpressure.max_unacked_chunks,
        ack_timeout_s=backpressure.ack_timeout_ms / 1e3,
        max_tokens_per_chunk=backpressure.max_tokens_per_chunk,
        max_backlog_tokens=backpressure.max_backlog_tokens,
        min_tokens_per_chunk=backpressure.min_tokens_per_chunk,
        slow_consumer_threshold_s=backpressure.slow_consumer_threshold_ms / 1e3,
        idle_timeout_s=settings.stream_registry.idle_timeout_ms / 1e3,
        max_prompt_bytes=settings.stream_registry.max_prompt_bytes,
        request_chunk_bytes=settings.server.request_chunk_bytes,
        response_chunk_bytes=settings.server.response_chunk_bytes,
    )


def admission_options(settings: Settings) -> AdmissionOptions:
    return AdmissionOptions(
        default_class=ServiceClass[settings.admission.default_class.upper()],
        default_max_tokens=settings.engine.default_max_tokens,
        remote_control=settings.admission.remote_control,
    )


def governor_options(settings: Settings) -> GovernorOptions:
    """Raises ConfigError for the file of tenants."""
    registry, admission = settings.stream_registry, settings.admission
    adaptive, enabled = registry.adaptive_limits, settings.admission.enabled
    most = registry.max_active_streams
    fixed = not (enabled and adaptive.enabled)
    classes = {name: getattr(admission.classes, name.name.lower()) for name in ServiceClass}
    return GovernorOptions(
        initial_streams=most,
        limits=LimitOptions(
            strategy=StrategyName.FIXED if fixed else StrategyName(adaptive.strategy),
            min_streams=min(most, adaptive.min_streams) if fixed else adaptive.min_streams,
            max_streams=most if fixed else adaptive.max_streams,
            interval_s=adaptive.adjustment_interval_ms / 1e3,
            min_samples=adaptive.min_samples,
            scale_up_threshold=adaptive.scale_up_threshold,
            scale_down_threshold=adaptive.scale_down_threshold,
        ),
        gate=GateOptions(
            target_ttft_s=adaptive.target_ttft_ms / 1e3,
            target_latency_s=adaptive.target_latency_ms / 1e3,
            service_share=admission.service_share,
            class_factors={name: each.target_factor if enabled else 0.0 for name, each in classes.items()},
            max_kv_bytes=admission.max_kv_bytes if enabled else 0,
            max_retry_after_s=admission.max_retry_ms / 1e3,
        ),
        queue=QueueOptions(
            max_requests=admission.queue.max_requests if enabled else 0,
            max_tokens=admission.queue.max_tokens,
            ttl_s=admission.queue.ttl_ms / 1e3,
            ageing_s=admission.queue.ageing_ms / 1e3,
            lifo_under_overload=admission.queue.lifo_under_overload,
            credit_s=admission.queue.credit_ms / 1e3,
            reserved={name: each.reserved_share for name, each in classes.items()},
        ),
        tenants=tenant_options(settings),
    )


def tenant_options(settings: Settings) -> TenantOptions:
    """Reads the file of tenants, where there is one. Raises ConfigError."""
    tenants = settings.admission.tenants
    named = load_tenants(Path(tenants.file), tenants) if tenants.file else {}
    return TenantOptions(
        default=_tenant_limits(tenants),
        named={name: _tenant_limits(limits) for name, limits in named.items()},
        max_tenants=tenants.max_tenants,
        idle_s=tenants.idle_ms / 1e3,
        burst_s=tenants.burst_ms / 1e3,
    )


def _tenant_limits(limits: TenantSettings) -> TenantLimits:
    return TenantLimits(
        weight=limits.weight,
        max_streams=limits.max_streams,
        requests_per_s=limits.requests_per_s,
        tokens_per_s=limits.tokens_per_s,
        max_class=ServiceClass[limits.max_class.upper()],
    )


def pool_options(settings: Settings) -> PoolOptions | None:
    """None while pooling is off."""
    pooling = settings.stream_registry.chunk_pooling
    if not pooling.enabled:
        return None
    return PoolOptions(
        size=pooling.pool_size,
        max_uses=pooling.max_uses,
        cleanup_interval_s=pooling.pool_cleanup_interval_ms / 1e3,
    )


def worker_options(settings: Settings, source: str) -> WorkerOptions:
    """source: of the model that the worker runs."""
    engine = settings.engine
    return WorkerOptions(
        model=source,
        max_batch_rows=engine.max_batch_rows,
        prefill_batch_rows=engine.prefill_batch_rows,
        prefill_step_tokens=engine.prefill_step_tokens,
        max_context_tokens=engine.max_context_tokens,
        default_max_tokens=engine.default_max_tokens,
        cpu_blas=engine.cpu_blas,
        heartbeat_interval_s=engine.heartbeat_interval_ms / 1e3,
        max_parked_kv_bytes=engine.max_parked_kv_bytes,
        max_parked_s=engine.max_parked_ms / 1e3,
        idle_sleep_s=engine.idle_sleep_ms / 1e3,
        max_decode_gap_s=engine.max_decode_gap_ms / 1e3,
        max_prefix_cache_bytes=engine.max_prefix_cache_bytes,
        max_kv_bytes=settings.admission.max_kv_bytes,
        speculate_first_token=_speculates_first_token(engine, source),
        max_mismatch_rate=engine.first_token.max_mismatch_rate,
        # A draft must know the same tokens as its model: it is the default model's.
        draft_model=engine.draft_model if source == engine.model else "",
        draft_tokens=engine.draft_tokens,
        kv_bits=engine.kv_bits,
        kv_group_size=engine.kv_group_size,
        quantized_kv_start=engine.quantized_kv_start,
        max_kv_tokens=engine.max_kv_tokens,
    )


def _speculates_first_token(engine: EngineSettings, source: str) -> bool:
    allowed = {name.strip() for name in engine.first_token.models.split(",")}
    try:
        return engine.first_token.enabled and resolve(source)[1] in allowed
    except NoSuchModelError:
        return False  # The worker says what is wrong with it.


def supervisor_options(settings: Settings) -> SupervisorOptions:
    engine = settings.engine
    return SupervisorOptions(
        start_timeout_s=engine.start_timeout_ms / 1e3,
        stuck_after_s=engine.stuck_after_ms / 1e3,
        kill_after_s=engine.kill_after_ms / 1e3,
        restart_backoff_initial_s=engine.restart_backoff_initial_ms / 1e3,
        restart_backoff_max_s=engine.restart_backoff_max_ms / 1e3,
        stop_timeout_s=_WORKER_STOP_TIMEOUT_S,
    )


def worker_pool_options(settings: Settings) -> engine_options.PoolOptions:
    engine = settings.engine
    return engine_options.PoolOptions(
        workers=engine.workers,
        min_batch_rows=engine.min_batch_rows,
        steal_threshold_rows=engine.steal_threshold_rows,
        max_crashes=engine.max_crashes,
        warm_prompts=engine.warm_queue.max_prompts,
        warm_ttl_s=engine.warm_queue.ttl_ms / 1e3,
    )


def host_options(settings: Settings) -> HostOptions:
    engine, models = settings.engine, settings.models
    pairs = (pair.split("=", 1) for pair in _items(models.aliases))
    return HostOptions(
        source=engine.model,
        load=tuple(_items(models.load)),
        aliases=tuple((alias.strip(), name.strip()) for alias, name in pairs),
        idle_unload_s=models.idle_unload_ms / 1e3,
        max_memory_bytes=models.max_memory_bytes,
        workers=engine.workers,
        kv_bytes=settings.admission.max_kv_bytes
        or engine.max_parked_kv_bytes + engine.max_prefix_cache_bytes,
    )


def _items(text: str) -> list[str]:
    """What stands between commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def model_engine(settings: Settings, source: str) -> Engine:
    """The engine for one model."""
    engine = PoolEngine(
        worker_options(settings, source), supervisor_options(settings), worker_pool_options(settings)
    )
    return CoalescingEngine(engine) if settings.engine.coalesce_identical else engine


def model_host(settings: Settings) -> ModelHost:
    """The configured models, each with an engine of its own."""

    def make_engine(source: str) -> Engine:
        return model_engine(settings, source)

    return ModelHost(make_engine(settings.engine.model), host_options(settings), make_engine)


def configure_logging(settings: LoggingSettings) -> None:
    """Logs go to standard error. Prompts and outputs are never logged."""
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if settings.format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run(loaded: Loaded, engine: Engine | None = None) -> int:
    """Serve until SIGTERM or SIGINT; a second signal ends the grace time. Returns the exit status.

    engine: what to serve instead of the configured models.
    """
    settings = loaded.settings
    configure_logging(settings.logging)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_run(settings, ModelHost.of(engine) if engine else model_host(settings)))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: it takes about a quarter less CPU per message than asyncio's own loop."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop  # type: ignore[no-any-return]


async def _run(settings: Settings, models: ModelHost) -> int:
    stopping = _stop_signals()
    try:
        governor = governor_options(settings)
    except ConfigError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    server = Server(
        models,
        server_options(settings),
        stream_options(settings),
        admission_options(settings),
        governor,
        pool_options(settings),
        version=version("penstock"),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload_tenants, settings, server)
    try:
        address = await server.listen()
        print(f"{LISTENING}{address}", flush=True)
        await _until_first(server.start_engine(), stopping[0].wait())
        await stopping[0].wait()
        await _until_first(server.drain(), stopping[1].wait())
    except (BindError, EngineStartError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    finally:
        await server.stop()
    return 0


def _reload_tenants(settings: Settings, server: Server) -> None:
    """Read the file of tenants again; one with a problem changes nothing."""
    try:
        options = tenant_options(settings)
    except ConfigError as error:
        _log.error("tenants not reloaded, the old limits stay", problems=error.problems)
        return
    server.admission.configure_tenants(options)
    _log.info("tenants reloaded", file=settings.admission.tenants.file, tenants=len(options.named))


def _stop_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Events for the first and the second signal to stop."""
    first, second = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (second if first.is_set() else first).set()

    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop)
    return first, second


async def _until_first(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Run until one of them is done, cancel the others, and raise what the first one raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
