"""The options: names, types and ranges.

There is no default here: ``runtime.yaml`` holds a value and a meaning for every option. A description says
what is allowed where the type and the range alone do not.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

MESSAGE_BYTES_MIN = 1024
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TOKENS_MAX = 16 * 1024 * 1024


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class StreamRegistrySettings(_Section):
    """The streams in flight: how many, for how long, their credit, and their messages."""

    default_timeout_ms: int = Field(ge=1, le=DAY_MS)
    max_active_streams: int = Field(ge=1, le=10_000)
    idle_timeout_ms: int = Field(ge=1, le=HOUR_MS)
    max_prompt_bytes: int = Field(ge=1024, le=1024**3)
    backpressure: BackpressureSettings
    chunk_pooling: ChunkPoolingSettings


class EngineSettings(_Section):
    """The model, its batches, and the supervision of the worker process."""

    model: str = Field(pattern=r"\S", description="embedded, a model directory or a hub name")
    max_batch_rows: int = Field(ge=1, le=1024)
    prefill_batch_rows: int = Field(ge=1, le=1024)
    prefill_step_tokens: int = Field(ge=1, le=65536)
    max_context_tokens: int = Field(ge=0, le=TOKENS_MAX)
    default_max_tokens: int = Field(ge=1, le=TOKENS_MAX)
    max_parked_kv_bytes: int = Field(ge=0, le=1024**4)
    max_parked_ms: int = Field(ge=0, le=DAY_MS)
    cpu_blas: str = Field(
        pattern=r"^(auto|none|/.+)$", description="auto, none or the absolute path of a library"
    )
    start_timeout_ms: int = Field(ge=1000, le=DAY_MS)
    heartbeat_interval_ms: int = Field(ge=10, le=60_000)
    stuck_after_ms: int = Field(ge=100, le=HOUR_MS)
    kill_after_ms: int = Field(ge=100, le=HOUR_MS)
    restart_backoff_initial_ms: int = Field(ge=1, le=HOUR_MS)
    restart_backoff_max_ms: int = Field(ge=1, le=HOUR_MS)


class LoggingSettings(_Section):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["json", "console"]


class Settings(BaseSettings):
    """Every option, frozen. Made by ``config.load`` only, which also checks ``RULES``."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, strict=True, case_sensitive=True)

    server: ServerSettings
    stream_registry: StreamRegistrySettings
    engine: EngineSettings
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


@dataclass(frozen=True, slots=True)
class Rule:
    """An order that two integer options must keep: ``left relation right``."""

    left: str
    relation: Literal[">", ">="]
    right: str

    def holds(self, left: int, right: int) -> bool:
        """Return whether the two values keep the order."""
        return left > right or (self.relation == ">=" and left == right)


RULES = (
    Rule("server.max_receive_message_bytes", ">", "server.request_chunk_bytes"),
    Rule("server.max_send_message_bytes", ">", "server.response_chunk_bytes"),
    Rule(
        "stream_registry.backpressure.max_tokens_per_chunk",
        ">=",
        "stream_registry.backpressure.min_tokens_per_chunk",
    ),
    Rule(
        "stream_registry.backpressure.max_backlog_tokens",
        ">=",
        "stream_registry.backpressure.max_tokens_per_chunk",
    ),
    Rule("engine.max_batch_rows", ">=", "engine.prefill_batch_rows"),
    Rule("engine.stuck_after_ms", ">", "engine.heartbeat_interval_ms"),
    Rule("engine.kill_after_ms", ">", "engine.stuck_after_ms"),
    Rule("engine.restart_backoff_max_ms", ">=", "engine.restart_backoff_initial_ms"),
)
