"""Options of the service, without defaults: config/runtime.yaml is their only home."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flowcontrol.admission.ask import ServiceClass
from flowcontrol.admission.options import GovernorOptions
from flowcontrol.features import FeatureName, FeatureOptions
from flowcontrol.limits.contract import LimitOptions
from flowcontrol.remediation.contract import RemediationOptions
from flowcontrol.slo import SloOptions


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Bounds of every stream; meanings as in config/runtime.yaml, stream_registry.

    log_prompts: whether prompt and output are logged at its end.
    """

    default_timeout_s: float
    enforce_credits: bool
    max_unacked_chunks: int
    ack_timeout_s: float
    max_tokens_per_chunk: int
    max_backlog_tokens: int
    min_tokens_per_chunk: int
    slow_consumer_threshold_s: float
    idle_timeout_s: float
    max_prompt_bytes: int
    request_chunk_bytes: int
    response_chunk_bytes: int
    log_prompts: bool


@dataclass(frozen=True, slots=True)
class AdmissionOptions:
    """What admission assumes of a request that does not say it.

    remote_control: whether limits may be changed from other machines than this one.
    """

    default_class: ServiceClass
    default_max_tokens: int
    remote_control: bool


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The pool of response messages; meanings as in config/runtime.yaml, stream_registry.chunk_pooling."""

    size: int
    max_uses: int
    cleanup_interval_s: float


@dataclass(frozen=True, slots=True)
class RolloutOptions:
    """Features that may be on for some streams only; meanings as in config/runtime.yaml, features.

    features: every one of them. limits: what adaptive limits are steered by where they are on.
    remote_control: whether features may be changed from other machines than this one.
    """

    features: Mapping[FeatureName, FeatureOptions]
    roll_back: bool
    min_samples: int
    limits: LimitOptions
    remote_control: bool


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The listening socket and the server's life; meanings as in config/runtime.yaml, server.

    models_remote_control: whether models may be loaded and unloaded from other machines than this one.
    """

    host: str
    port: int
    max_receive_message_bytes: int
    max_send_message_bytes: int
    keepalive_time_ms: int
    keepalive_timeout_ms: int
    drain_grace_s: float
    health_interval_s: float
    models_remote_control: bool


@dataclass(frozen=True, slots=True)
class TelemetryOptions:
    """Metrics and traces; meanings as in config/runtime.yaml, telemetry. max_batch_rows: of one worker."""

    prometheus_host: str
    prometheus_port: int
    otlp_endpoint: str
    otlp_interval_s: float
    trace_sample_ratio: float
    grpc_metrics: bool
    max_batch_rows: int


@dataclass(frozen=True, slots=True)
class AlertOptions:
    """Who is told; meanings as in config/runtime.yaml, alerts. Its repr holds no secret.

    webhook_url: empty for no posts. webhook_secret: empty for no signature.
    """

    webhook_url: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    timeout_s: float
    max_attempts: int
    queue_size: int
    sustained_s: float


@dataclass(frozen=True, slots=True)
class GuardOptions:
    """What the server watches and does by itself.

    slo: None for no objectives. remediation: None to do nothing about breaches. interval_s: between two
    looks. prefill_step_tokens: as the engine is configured.
    """

    slo: SloOptions | None
    remediation: RemediationOptions | None
    alerts: AlertOptions
    interval_s: float
    prefill_step_tokens: int


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """All that a Server is told. pool: None to make each message anew. telemetry: None to measure nothing."""

    server: ServerOptions
    stream: StreamOptions
    admission: AdmissionOptions
    governor: GovernorOptions
    pool: PoolOptions | None
    rollout: RolloutOptions
    guard: GuardOptions
    telemetry: TelemetryOptions | None
