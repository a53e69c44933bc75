"""Where the server is and how the channel to it is set up, for both clients."""

import os
from collections.abc import Sequence
from typing import Any

TARGET_VARIABLE = "PENSTOCK_TARGET"
DEFAULT_TARGET = "127.0.0.1:50051"

ChannelOptions = Sequence[tuple[str, Any]]

# A ping a minute during calls finds a dead connection and stays below what gRPC servers take for an attack.
_OPTIONS: dict[str, Any] = {
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.max_receive_message_length": 16 * 1024 * 1024,
    "grpc.max_send_message_length": -1,
}


def default_target() -> str:
    """PENSTOCK_TARGET of the environment, else the address that `penstock serve` listens on."""
    return os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def channel_options(extra: ChannelOptions | None) -> list[tuple[str, Any]]:
    """The client's channel options with the caller's on top."""
    return list({**_OPTIONS, **dict(extra or ())}.items())
