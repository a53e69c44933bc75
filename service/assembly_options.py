"""The options of every part, made from the configuration."""

from dataclasses import replace
from pathlib import Path

from config import EngineSettings, Settings, TenantSettings, load_tenants
from engine import options as engine_options
from engine.model_source import NoSuchModelError, resolve
from engine.options import HostOptions, SupervisorOptions, WorkerOptions
from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.fair_queue import QueueOptions
from flowcontrol.admission.gate import GateOptions
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.admission.tenants import TenantLimits, TenantOptions
from flowcontrol.features import FeatureName, FeatureOptions
from flowcontrol.limits.contract import LimitOptions, StrategyName
from flowcontrol.remediation.contract import RemediationOptions
from flowcontrol.slo import SloOptions
from service.options import (
    AdmissionOptions,
    AlertOptions,
    GuardOptions,
    PoolOptions,
    RolloutOptions,
    ServerOptions,
    ServiceOptions,
    StreamOptions,
    TelemetryOptions,
)

# How long a worker may take to end when it is told to; it has only a decode step to finish.
_WORKER_STOP_TIMEOUT_S = 5.0


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
        log_prompts=settings.logging.prompts and settings.logging.level == "debug",
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
    limits = limit_options(settings)
    if not (enabled and adaptive.enabled):
        least = min(most, adaptive.min_streams)
        limits = replace(limits, strategy=StrategyName.FIXED, min_streams=least, max_streams=most)
    classes = {name: getattr(admission.classes, name.name.lower()) for name in ServiceClass}
    return GovernorOptions(
        initial_streams=most,
        limits=limits,
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


def limit_options(settings: Settings) -> LimitOptions:
    """What steers the limit while adaptive limits are on."""
    adaptive = settings.stream_registry.adaptive_limits
    return LimitOptions(
        strategy=StrategyName(adaptive.strategy),
        min_streams=adaptive.min_streams,
        max_streams=adaptive.max_streams,
        interval_s=adaptive.adjustment_interval_ms / 1e3,
        min_samples=adaptive.min_samples,
        scale_up_threshold=adaptive.scale_up_threshold,
        scale_down_threshold=adaptive.scale_down_threshold,
    )


def rollout_options(settings: Settings) -> RolloutOptions:
    return RolloutOptions(
        features=feature_options(settings),
        roll_back=settings.features.roll_back,
        min_samples=settings.features.min_samples,
        limits=limit_options(settings),
        remote_control=settings.admission.remote_control,
    )


def feature_options(settings: Settings) -> dict[FeatureName, FeatureOptions]:
    """Of every feature, though adaptive limits are no section of their own."""
    limits = settings.admission.enabled and settings.stream_registry.adaptive_limits.enabled
    sections = {name: getattr(settings.features, name, None) for name in FeatureName}
    return {
        name: FeatureOptions(limits, 0.0, frozenset())
        if section is None
        else FeatureOptions(section.enabled, section.canary_percent, frozenset(_items(section.tenants)))
        for name, section in sections.items()
    }


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


def telemetry_options(settings: Settings) -> TelemetryOptions | None:
    """None while telemetry is off."""
    telemetry = settings.telemetry
    if not telemetry.enabled:
        return None
    return TelemetryOptions(
        prometheus_host=telemetry.prometheus_host,
        prometheus_port=telemetry.prometheus_port,
        otlp_endpoint=telemetry.otlp_endpoint,
        otlp_interval_s=telemetry.otlp_interval_ms / 1e3,
        trace_sample_ratio=telemetry.trace_sample_ratio,
        grpc_metrics=telemetry.grpc_metrics,
        max_batch_rows=settings.engine.max_batch_rows,
    )


def alert_options(settings: Settings) -> AlertOptions:
    alerts = settings.alerts
    return AlertOptions(
        webhook_url=alerts.webhook_url,
        webhook_secret=alerts.webhook_secret,
        timeout_s=alerts.timeout_ms / 1e3,
        max_attempts=alerts.max_attempts,
        queue_size=alerts.queue_size,
        sustained_s=alerts.sustained_ms / 1e3,
    )


def slo_options(settings: Settings) -> SloOptions | None:
    """None while no objectives are watched."""
    slo = settings.slo
    if not slo.enabled:
        return None
    return SloOptions(
        interval_s=slo.evaluation_interval_ms / 1e3,
        fast_window_s=slo.fast_window_ms / 1e3,
        slow_window_s=slo.slow_window_ms / 1e3,
        min_samples=slo.min_samples,
        ttft_p50_s=slo.ttft_p50_ms / 1e3,
        ttft_p95_s=slo.ttft_p95_ms / 1e3,
        inter_token_p95_s=slo.inter_token_p95_ms / 1e3,
        max_refusal_rate=slo.max_refusal_rate,
        max_infrastructure_cancellations=slo.max_infrastructure_cancellations,
    )


def remediation_options(settings: Settings) -> RemediationOptions | None:
    """None while nothing is done about breaches."""
    remediation = settings.remediation
    if remediation.mode == "off":
        return None
    return RemediationOptions(
        act=remediation.mode == "act",
        cool_down_s=remediation.cool_down_ms / 1e3,
        max_actions_per_hour=remediation.max_actions_per_hour,
        max_swings=remediation.max_swings,
        max_failures=remediation.max_failures,
    )


def guard_options(settings: Settings) -> GuardOptions:
    return GuardOptions(
        slo=slo_options(settings),
        remediation=remediation_options(settings),
        alerts=alert_options(settings),
        interval_s=settings.slo.evaluation_interval_ms / 1e3,
        prefill_step_tokens=settings.engine.prefill_step_tokens,
    )


def service_options(settings: Settings) -> ServiceOptions:
    """Raises ConfigError for the file of tenants."""
    return ServiceOptions(
        server=server_options(settings),
        stream=stream_options(settings),
        admission=admission_options(settings),
        governor=governor_options(settings),
        pool=pool_options(settings),
        rollout=rollout_options(settings),
        guard=guard_options(settings),
        telemetry=telemetry_options(settings),
    )
