"""Everything that looks on while streams are served: metrics, objectives, alerts, and the guard over them."""

import asyncio
from collections.abc import Callable, Iterable

from engine.machine_memory import available_bytes
from engine.model_host import ModelHost
from flowcontrol.admission.governor import Governor
from flowcontrol.registry import StreamRegistry
from flowcontrol.remediation.policy import Policy
from flowcontrol.slo import SloGuard
from flowcontrol.sustained import SustainedBreaches
from service.alert import AlertServer
from service.alerts import Alerts
from service.guard import Guard
from service.guard_actions import Actions
from service.guard_news import Newsroom
from service.guard_signals import kv_use
from service.message_pool import MessagePool
from service.observation import Observation, StreamSink
from service.options import ServiceOptions
from service.rollout import Rollout
from service.stream_snapshot import StreamSnapshot
from service.telemetry.exporter import MetricsExporter
from service.telemetry.guard_instruments import GUARD, GuardReading
from service.telemetry.histograms import StreamHistograms
from service.telemetry.readings import Readings
from service.telemetry.tables import Table
from service.telemetry.totals import StreamTotals

# How often what streams told is handed to whoever measures it.
_FLUSH_S = 1.0


class Watch:
    """Owns the parts and their connections. `keep_flushing` and `keep_watching` must run beside the server.

    With neither metrics nor objectives nobody is told of streams, and the arms of a canary are not compared.
    """

    def __init__(
        self,
        options: ServiceOptions,
        models: ModelHost,
        governor: Governor,
        rollout: Rollout,
        decide: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """decide: called when more streams may start. clock: the governor's."""
        self._options = options
        self._models = models
        self._governor = governor
        self._rollout = rollout
        self._clock = clock
        self._alerts = Alerts(options.guard.alerts)
        self.news = Newsroom(self._alerts.tell)
        slo, remediation = options.guard.slo, options.guard.remediation
        self.guard = Guard(
            SloGuard(slo, clock()) if slo is not None else None,
            Policy(remediation) if remediation is not None else None,
            governor=governor,
            models=models,
            rollout=rollout,
            actions=Actions(
                governor,
                models,
                rollout,
                decide=decide,
                prefill_step_tokens=options.guard.prefill_step_tokens,
                clock=clock,
            ),
            news=self.news,
            sustained=SustainedBreaches(options.guard.alerts.sustained_s),
            kv_use=lambda governed: kv_use(models.models(), governed, available_bytes()),
            clock=clock,
        )
        self._histograms, self._totals = StreamHistograms(), StreamTotals()
        sinks: list[StreamSink] = []
        if options.telemetry is not None:
            sinks += [self._histograms, self._totals]
        if options.telemetry is not None or slo is not None:
            sinks.append(self.guard)
        self.observation = Observation(sinks)

    def exporter(
        self,
        registry: StreamRegistry,
        pool: MessagePool | None,
        streams: Callable[[], Iterable[StreamSnapshot]],
        version: str,
    ) -> MetricsExporter | None:
        """Of all metrics; None while telemetry is off. It is the caller's to start and to stop."""
        telemetry = self._options.telemetry
        if telemetry is None:
            return None
        readings = Readings(
            self._models,
            registry,
            self._governor,
            pool,
            self.observation,
            self._histograms,
            self._totals,
            streams=streams,
            max_batch_rows=telemetry.max_batch_rows,
            version=version,
            clock=self._clock,
        )
        return MetricsExporter(telemetry, readings, version=version, tables=(Table(self._read, GUARD),))

    def _read(self) -> GuardReading:
        return GuardReading(self.guard.snapshot(), self._alerts.snapshot(), self._rollout.table.snapshot())

    def start(self, server: AlertServer) -> None:
        """The server listens: alerts name it from now on, and are posted."""
        self.news.server = server
        self._alerts.start()

    async def keep_flushing(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            self.observation.flush()

    async def keep_watching(self) -> None:
        """Until cancelled."""
        await self.guard.keep_watching(self.observation, self._options.guard.interval_s)

    async def stop(self) -> None:
        """Post the alerts that wait, within a bound. Idempotent."""
        await self._alerts.close()
