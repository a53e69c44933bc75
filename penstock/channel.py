"""Where the server is and how the channel to it is set up, for both clients."""

import os
from collections.abc import Sequence
from typing import Any

TARGET_VARIABLE = "PENSTOCK_TARGET"
DEFAULT_TARGET = "127.0.0.1:50051"

ChannelOptions = Sequence[tuple[str, Any]]

_OPTIONS: dict[str, Any] = {
    # A dead connection is noticed in half a minute. A Penstock server takes pings 15 s apart as fair.
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 10_000,
    # Of gRPC's own pings, a minute by default: while one is under way no keepalive ping is sent.
    "grpc.http2.ping_timeout_ms": 10_000,
    # A caller whose prompt is being computed has nothing to send, and no limit on pings either.
    "grpc.http2.max_pings_without_data": 0,
    # gRPC's own pauses between connection attempts grow to minutes: too long for a server that restarts.
    "grpc.initial_reconnect_backoff_ms": 250,
    "grpc.max_reconnect_backoff_ms": 2_000,
    # How long one attempt may take, in spite of its name.
    "grpc.min_reconnect_backoff_ms": 10_000,
    "grpc.max_receive_message_length": 16 * 1024 * 1024,
    "grpc.max_send_message_length": -1,
}


def default_target() -> str:
    """PENSTOCK_TARGET of the environment, else the address that `penstock serve` listens on."""
    return os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def channel_options(extra: ChannelOptions | None) -> list[tuple[str, Any]]:
    """The client's channel options with the caller's on top."""
    return list({**_OPTIONS, **dict(extra or ())}.items())
