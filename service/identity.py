"""Whose request a call is."""

from typing import Any

import grpc

from flowcontrol.reasons import Reason
from penstock.tenant import TENANT_KEY
from service.errors import ServiceError, Violation

MAX_TENANT_CHARACTERS = 128


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
