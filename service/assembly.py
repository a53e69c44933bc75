"""Puts the server together from the configuration and runs it until it is told to stop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from config import ConfigError, Loaded, LoggingSettings, Settings
from engine.coalescing import CoalescingEngine
from engine.contract import Engine, EngineStartError
from engine.model_host import ModelHost
from engine.pool_engine import PoolEngine
from engine.startup_objects import freeze_startup_objects
from service.assembly_options import (
    host_options,
    service_options,
    supervisor_options,
    tenant_options,
    worker_options,
    worker_pool_options,
)
from service.options import TelemetryOptions
from service.server import BindError, Server
from service.until_first import until_first

if TYPE_CHECKING:
    from service.telemetry.tracing import Tracing

_log = structlog.get_logger("penstock.assembly")

# The line on standard output that says where the server listens; `penstock demo` and tests read it.
LISTENING = "penstock listening on "
# The line after it, unless telemetry is off.
METRICS = "penstock metrics on "


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
    """Logs go to standard error, with what was bound for the stream or call that a line is of.

    Prompts and outputs are logged only at level debug, and only where logging.prompts asks for it.
    """
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if settings.format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
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
        options = service_options(settings)
    except ConfigError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    tracing = _tracing(options.telemetry)
    server = Server(models, options, version=version("penstock"), tracing=tracing)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload_tenants, settings, server)
    try:
        address = await server.listen()
        print(f"{LISTENING}{address}", flush=True)
        if server.metrics_address:
            print(f"{METRICS}http://{server.metrics_address}/metrics", flush=True)
        await until_first(server.start_engine(), stopping[0].wait())
        freeze_startup_objects()
        await stopping[0].wait()
        await until_first(server.drain(), stopping[1].wait())
    except (BindError, EngineStartError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1
    finally:
        await server.stop()
        if tracing is not None:
            tracing.stop()
    return 0


def _tracing(options: TelemetryOptions | None) -> "Tracing | None":
    """None without a collector to send traces to."""
    if options is None or not options.otlp_endpoint:
        return None
    from service.telemetry.tracing import Tracing  # Only now: it takes as long to import as the rest.

    return Tracing(options, version=version("penstock"))


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
