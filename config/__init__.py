"""The options of the server: ``runtime.yaml`` holds the defaults, ``load`` lays the other sources over it."""

from config import report
from config.errors import ConfigError
from config.loader import ENVIRONMENTS, PROFILES, Loaded, load
from config.schema import (
    AdaptiveLimitsSettings,
    AdmissionSettings,
    BackpressureSettings,
    EngineSettings,
    LoggingSettings,
    ServerSettings,
    Settings,
    StreamRegistrySettings,
    TenantSettings,
    TenantsSettings,
)
from config.tenants import load_tenants

__all__ = [
    "ENVIRONMENTS",
    "PROFILES",
    "AdaptiveLimitsSettings",
    "AdmissionSettings",
    "BackpressureSettings",
    "ConfigError",
    "EngineSettings",
    "Loaded",
    "LoggingSettings",
    "ServerSettings",
    "Settings",
    "StreamRegistrySettings",
    "TenantSettings",
    "TenantsSettings",
    "load",
    "load_tenants",
    "report",
]
