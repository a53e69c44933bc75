"""The client of the Penstock text generation service: `Client` for asyncio, `SyncClient` for the rest."""

from importlib.metadata import PackageNotFoundError, version

from penstock.aio_stream import Stream
from penstock.client import Client
from penstock.errors import (
    AbortedError,
    CancelledStreamError,
    DeadlineError,
    InternalServerError,
    InvalidRequestError,
    NotFoundError,
    NotImplementedOnServerError,
    OverloadedError,
    PenstockError,
    ProtocolError,
    UnavailableError,
)
from penstock.receiver import CreditStats
from penstock.request import GenerateOptions, Prompt
from penstock.retry import Retry
from penstock.sync_client import SyncClient
from penstock.sync_stream import SyncStream

try:
    __version__ = version("penstock")
except PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "unknown"

__all__ = [
    "AbortedError",
    "CancelledStreamError",
    "Client",
    "CreditStats",
    "DeadlineError",
    "GenerateOptions",
    "InternalServerError",
    "InvalidRequestError",
    "NotFoundError",
    "NotImplementedOnServerError",
    "OverloadedError",
    "PenstockError",
    "Prompt",
    "ProtocolError",
    "Retry",
    "Stream",
    "SyncClient",
    "SyncStream",
    "UnavailableError",
    "__version__",
]
