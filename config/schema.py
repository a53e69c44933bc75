"""The options: names, types and ranges.

There is no default here: ``runtime.yaml`` holds a value and a meaning for every option. A description says
what is allowed where the type and the range alone do not. ``Address`` and ``SecretText`` are masked wherever
they are shown.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from config.masking import Secrecy, check_address, masked, secrecy_of

MESSAGE_BYTES_MIN = 1024
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TOKENS_MAX = 16 * 1024 * 1024
STREAMS_MAX = 10_000
RATE_MAX = 1_000_000_000.0

ServiceClassName = Literal["system", "interactive", "default", "bulk"]
Address = Annotated[str, Secrecy.ADDRESS, AfterValidator(check_address)]
SecretText = Annotated[str, Secrecy.TEXT]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            secrecy = secrecy_of(type(self).model_fields[name].metadata) if name else None
            yield name, value if secrecy is None else masked(secrecy, value)


class ServerSettings(_Section):
    """The gRPC server: address, message sizes, connections, shutdown and health."""

    host: str = Field(pattern=r"^\S+$", description="a host name or an IP address")
    port: int = Field(ge=0, le=65535)
    max_receive_message_bytes: int = Field(ge=MESSAGE_BYTES_MIN, le=MESSAGE_BYTES_MAX)
    max_send_message_bytes: int = Field(ge=MESSAGE_BYTES_MIN, le=MESSAGE_BYTES_MAX)
    request_chunk_bytes: int = Field(ge=1024, le=MESSAGE_BYTES_MAX)
    response_chunk_bytes: int = Field(ge=16, le=MESSAGE_BYTES_MAX)
    keepalive_time_ms: int = Field(ge=100, le=DAY_MS)
    keepalive_timeout_ms: int = Field(ge=100, le=600_000)
    drain_grace_ms: int = Field(ge=0, le=HOUR_MS)
    health_interval_ms: int = Field(ge=10, le=5000)


class BackpressureSettings(_Section):
    """Credit of one stream: how much may be unacked or waiting, and for how long."""

    enabled: bool
    max_unacked_chunks: int = Field(ge=1, le=1_000_000)
    ack_timeout_ms: int = Field(ge=1, le=HOUR_MS)
    slow_consumer_threshold_ms: int = Field(ge=1, le=HOUR_MS)
    min_tokens_per_chunk: int = Field(ge=1, le=1024)
    max_tokens_per_chunk: int = Field(ge=1, le=1024)
    max_backlog_tokens: int = Field(ge=1, le=4096)


class ChunkPoolingSettings(_Section):
    """Response messages that are used again."""

    enabled: bool
    pool_size: int = Field(ge=1, le=1_000_000)
    pool_cleanup_interval_ms: int = Field(ge=10, le=DAY_MS)
    max_uses: int = Field(ge=1, le=1_000_000)


class AdaptiveLimitsSettings(_Section):
    """The limit on streams in flight that follows the load: its bounds, its targets and its pace."""

    enabled: bool
    strategy: Literal["fixed", "threshold", "pid", "gradient"]
    min_streams: int = Field(ge=1, le=STREAMS_MAX)
    max_streams: int = Field(ge=1, le=STREAMS_MAX)
    target_ttft_ms: int = Field(ge=1, le=HOUR_MS)
    target_latency_ms: int = Field(ge=0, le=HOUR_MS)
    adjustment_interval_ms: int = Field(ge=10, le=HOUR_MS)
    min_samples: int = Field(ge=1, le=STREAMS_MAX)
    scale_up_threshold: float = Field(ge=0.0, le=1.0)
    scale_down_threshold: float = Field(ge=0.0, le=1.0)


class StreamRegistrySettings(_Section):
    """The streams in flight: how many, for how long, their credit, and their messages."""

    default_timeout_ms: int = Field(ge=1, le=DAY_MS)
    max_active_streams: int = Field(ge=1, le=STREAMS_MAX)
    idle_timeout_ms: int = Field(ge=1, le=HOUR_MS)
    max_prompt_bytes: int = Field(ge=1024, le=1024**3)
    adaptive_limits: AdaptiveLimitsSettings
    backpressure: BackpressureSettings
    chunk_pooling: ChunkPoolingSettings


class QueueSettings(_Section):
    """The requests that wait for a place in flight."""

    max_requests: int = Field(ge=0, le=1_000_000)
    max_tokens: int = Field(ge=1, le=1024**3)
    ttl_ms: int = Field(ge=1, le=DAY_MS)
    ageing_ms: int = Field(ge=1, le=DAY_MS)
    lifo_under_overload: bool
    credit_ms: int = Field(ge=0, le=HOUR_MS)


class ClassSettings(_Section):
    """One class of service."""

    reserved_share: float = Field(ge=0.0, le=1.0)
    target_factor: float = Field(ge=0.0, le=3600.0)


class ClassesSettings(_Section):
    """The classes of service, highest first."""

    system: ClassSettings
    interactive: ClassSettings
    default: ClassSettings
    bulk: ClassSettings


class TenantSettings(_Section):
    """The limits of one tenant; 0 for no limit."""

    weight: float = Field(ge=0.01, le=1000.0)
    max_streams: int = Field(ge=0, le=STREAMS_MAX)
    requests_per_s: float = Field(ge=0.0, le=RATE_MAX)
    tokens_per_s: float = Field(ge=0.0, le=RATE_MAX)
    max_class: ServiceClassName


class TenantsSettings(TenantSettings):
    """The limits of tenants for which the file says nothing, and the table of tenants."""

    file: str = Field(pattern=r"^$|\S", description="the path of a YAML file, or empty")
    burst_ms: int = Field(ge=1, le=HOUR_MS)
    max_tenants: int = Field(ge=1, le=1_000_000)
    idle_ms: int = Field(ge=0, le=DAY_MS)


class AdmissionSettings(_Section):
    """Who may start, who waits, and who is refused."""

    enabled: bool
    default_class: ServiceClassName
    max_kv_bytes: int = Field(ge=0, le=1024**4)
    service_share: float = Field(ge=0.05, le=1.0)
    max_retry_ms: int = Field(ge=1, le=HOUR_MS)
    remote_control: bool
    queue: QueueSettings
    classes: ClassesSettings
    tenants: TenantsSettings


class FirstTokenSettings(_Section):
    """First tokens that are sent before they are computed."""

    enabled: bool
    models: str = Field(pattern=r"^$|\S", description="names of models, with commas between, or empty")
    max_mismatch_rate: float = Field(ge=0.0, le=1.0)


class WarmQueueSettings(_Section):
    """Prompts that are tokenised while they wait for admission."""

    max_prompts: int = Field(ge=0, le=1_000_000)
    ttl_ms: int = Field(ge=1, le=DAY_MS)


class EngineSettings(_Section):
    """The model, its batches, its caches, and the supervision of the worker processes."""

    model: str = Field(pattern=r"\S", description="embedded, a model directory or a hub name")
    workers: int = Field(ge=1, le=64)
    max_batch_rows: int = Field(ge=1, le=1024)
    min_batch_rows: int = Field(ge=1, le=1024)
    steal_threshold_rows: int = Field(ge=0, le=1024)
    idle_sleep_ms: int = Field(ge=0, le=1000)
    prefill_batch_rows: int = Field(ge=1, le=1024)
    prefill_step_tokens: int = Field(ge=1, le=65536)
    max_decode_gap_ms: int = Field(ge=0, le=HOUR_MS)
    max_context_tokens: int = Field(ge=0, le=TOKENS_MAX)
    default_max_tokens: int = Field(ge=1, le=TOKENS_MAX)
    max_parked_kv_bytes: int = Field(ge=0, le=1024**4)
    max_parked_ms: int = Field(ge=0, le=DAY_MS)
    max_prefix_cache_bytes: int = Field(ge=0, le=1024**4)
    coalesce_identical: bool
    draft_model: str = Field(pattern=r"^$|\S", description="a model directory, a hub name, or empty")
    draft_tokens: int = Field(ge=1, le=64)
    kv_bits: int = Field(ge=0, le=8)
    kv_group_size: int = Field(ge=32, le=128)
    quantized_kv_start: int = Field(ge=0, le=TOKENS_MAX)
    max_kv_tokens: int = Field(ge=0, le=TOKENS_MAX)
    first_token: FirstTokenSettings
    warm_queue: WarmQueueSettings
    cpu_blas: str = Field(
        pattern=r"^(auto|none|/.+)$", description="auto, none or the absolute path of a library"
    )
    start_timeout_ms: int = Field(ge=1000, le=DAY_MS)
    heartbeat_interval_ms: int = Field(ge=10, le=60_000)
    stuck_after_ms: int = Field(ge=100, le=HOUR_MS)
    kill_after_ms: int = Field(ge=100, le=HOUR_MS)
    restart_backoff_initial_ms: int = Field(ge=1, le=HOUR_MS)
    restart_backoff_max_ms: int = Field(ge=1, le=HOUR_MS)
    max_crashes: int = Field(ge=1, le=1000)


class ModelsSettings(_Section):
    """The models beside that of the engine section."""

    load: str = Field(
        pattern=r"^$|\S", description="model directories or hub names, with commas between, or empty"
    )
    aliases: str = Field(
        pattern=r"^\s*$|^\s*[^\s=,]+\s*=\s*[^\s=,]+\s*(,\s*[^\s=,]+\s*=\s*[^\s=,]+\s*)*$",
        description="ALIAS=NAME pairs, with commas between, or empty",
    )
    idle_unload_ms: int = Field(ge=0, le=DAY_MS)
    max_memory_bytes: int = Field(ge=0, le=1024**4)
    remote_control: bool


class LoggingSettings(_Section):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["json", "console"]
    prompts: bool


class TelemetrySettings(_Section):
    """Metrics and traces."""

    enabled: bool
    prometheus_host: str = Field(pattern=r"^\S+$", description="a host name or an IP address")
    prometheus_port: int = Field(ge=0, le=65535)
    otlp_endpoint: Address = Field(
        pattern=r"^$|^https?://\S+$", description="the http:// or https:// address of a collector, or empty"
    )
    otlp_interval_ms: int = Field(ge=100, le=HOUR_MS)
    trace_sample_ratio: float = Field(ge=0.0, le=1.0)
    grpc_metrics: bool


class SloSettings(_Section):
    """The service level objectives, and the windows over which they are looked at."""

    enabled: bool
    evaluation_interval_ms: int = Field(ge=10, le=HOUR_MS)
    fast_window_ms: int = Field(ge=10, le=DAY_MS)
    slow_window_ms: int = Field(ge=10, le=DAY_MS)
    min_samples: int = Field(ge=1, le=1_000_000)
    ttft_p50_ms: int = Field(ge=0, le=HOUR_MS)
    ttft_p95_ms: int = Field(ge=0, le=HOUR_MS)
    inter_token_p95_ms: int = Field(ge=0, le=HOUR_MS)
    max_refusal_rate: float = Field(ge=0.0, le=1.0)
    max_infrastructure_cancellations: float = Field(ge=0.0, le=1.0)


class RemediationSettings(_Section):
    """What the server does by itself about breaches of its objectives."""

    mode: Literal["off", "dry_run", "act"]
    cool_down_ms: int = Field(ge=0, le=DAY_MS)
    max_actions_per_hour: int = Field(ge=1, le=3600)
    max_swings: int = Field(ge=1, le=100)
    max_failures: int = Field(ge=1, le=100)


class AlertsSettings(_Section):
    """Who is told of lasting breaches and of actions."""

    webhook_url: Address = Field(
        pattern=r"^$|^https?://\S+$", description="an http:// or https:// address, or empty"
    )
    webhook_secret: SecretText = Field(
        pattern=r"^$|\S", description="a text without meaning to others, or empty"
    )
    timeout_ms: int = Field(ge=10, le=600_000)
    max_attempts: int = Field(ge=1, le=100)
    queue_size: int = Field(ge=1, le=1_000_000)
    sustained_ms: int = Field(ge=0, le=DAY_MS)


class FeatureSettings(_Section):
    """For which streams a feature is on."""

    enabled: bool
    canary_percent: float = Field(ge=0.0, le=99.0)
    tenants: str = Field(pattern=r"^$|\S", description="names of tenants, with commas between, or empty")


class FeaturesSettings(_Section):
    """The features."""

    roll_back: bool
    min_samples: int = Field(ge=1, le=1_000_000)
    coalescing: FeatureSettings
    pooling: FeatureSettings
    prefix_cache: FeatureSettings
    speculation: FeatureSettings


class Settings(BaseSettings):
    """Every option, frozen. Made by ``config.load`` only, which also checks ``config.rules``."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, strict=True, case_sensitive=True)

    server: ServerSettings
    stream_registry: StreamRegistrySettings
    admission: AdmissionSettings
    engine: EngineSettings
    models: ModelsSettings
    features: FeaturesSettings
    telemetry: TelemetrySettings
    slo: SloSettings
    remediation: RemediationSettings
    alerts: AlertsSettings
    logging: LoggingSettings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the loader alone: no hidden reading of the process's environment."""
        return (init_settings,)
