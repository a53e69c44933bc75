"""Whose request a call is, and where it comes from."""

import ipaddress
from typing import Any
from urllib.parse import unquote

import grpc

from flowcontrol.reasons import Reason
from penstock.tenant import TENANT_KEY
from service.errors import ServiceError, Violation

MAX_TENANT_CHARACTERS = 128

_UNIX_SCHEMES = ("unix", "unix-abstract")


def tenant_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The tenant of a call: what its credential says, else the metadata x-tenant-id, else empty.

    Raises ServiceError when x-tenant-id comes twice, is too long, or holds more than printable ASCII.
    """
    identities = context.peer_identities()
    if identities:
        return bytes(next(iter(identities))).decode("ascii", "replace")[:MAX_TENANT_CHARACTERS]
    names = [value for key, value in context.invocation_metadata() or () if key == TENANT_KEY]
    if not names:
        return ""
    name = names[0]
    fits = len(names) == 1 and isinstance(name, str) and len(name) <= MAX_TENANT_CHARACTERS
    if not (fits and str(name).isascii() and str(name).isprintable()):
        text = f"allowed: one value of at most {MAX_TENANT_CHARACTERS} printable ASCII characters"
        violation = Violation(TENANT_KEY, text)
        raise ServiceError(Reason.INVALID_REQUEST, f"{TENANT_KEY}: {text}", violations=[violation])
    return str(name)


def is_local(peer: str) -> bool:
    """Whether a peer, as gRPC names it, is a process on this machine.

    Such as "ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000" or "unix:". A proxy on this machine is one, whoever
    it speaks for.
    """
    scheme, _, rest = unquote(peer).partition(":")
    if scheme in _UNIX_SCHEMES:
        return True
    host = rest.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return scheme in ("ipv4", "ipv6") and (mapped or address).is_loopback
