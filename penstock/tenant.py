"""Whom a client's calls count for, as gRPC metadata."""

from collections.abc import Sequence

from penstock.errors import InvalidRequestError

TENANT_KEY = "x-tenant-id"

Metadata = Sequence[tuple[str, str | bytes]]
Pairs = tuple[tuple[str, str | bytes], ...]


def tenant_metadata(tenant: str | None) -> Pairs:
    """What every call of the tenant sends; nothing for None.

    InvalidRequestError when metadata cannot hold it.
    """
    if tenant is None:
        return ()
    # gRPC sends no other characters, and drops spaces at the ends.
    if not tenant or not tenant.isascii() or not tenant.isprintable() or tenant != tenant.strip():
        problem = f"got {tenant!r}; allowed: printable ASCII, at least 1 character, no space at the ends"
        raise InvalidRequestError(f"tenant: {problem}", violations=(("tenant", problem),))
    return ((TENANT_KEY, tenant),)


def with_tenant(tenant: Pairs, given: Metadata | None) -> Pairs:
    """The metadata of one call. A tenant that is in `given` takes the place of the client's."""
    if given is None:
        return tenant
    named = any(key.lower() == TENANT_KEY for key, _ in given)
    return tuple(given) if named else (*tenant, *given)
