"""The options of the server: ``runtime.yaml`` holds the defaults, ``load`` lays the other sources over it."""

from config import report
from config.errors import ConfigError
from config.loader import ENVIRONMENTS, Loaded, load
from config.schema import (
    BackpressureSettings,
    EngineSettings,
    LoggingSettings,
    ServerSettings,
    Settings,
    StreamRegistrySettings,
)

__all__ = [
    "ENVIRONMENTS",
    "BackpressureSettings",
    "ConfigError",
    "EngineSettings",
    "Loaded",
    "LoggingSettings",
    "ServerSettings",
    "Settings",
    "StreamRegistrySettings",
    "load",
    "report",
]
