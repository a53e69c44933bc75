"""Queues, tenants and requests for the tests of the fair queue."""

from collections.abc import Mapping

from flowcontrol.admission.ask import Ask, ServiceClass
from flowcontrol.admission.entry import Entry
from flowcontrol.admission.fair_queue import FairQueue, QueueOptions
from flowcontrol.admission.tenants import Tenant, TenantLimits

BULK, DEFAULT, INTERACTIVE, SYSTEM = ServiceClass


class TracedEntry(Entry):
    """With a dict, so that weak references to it can be had."""


def make_queue(
    *,
    max_requests: int = 1000,
    max_tokens: int = 10**6,
    ageing_s: float = 0,
    newest_first: bool = False,
    reserved: Mapping[ServiceClass, float] | None = None,
    credit_s: float = 0,
) -> FairQueue:
    return FairQueue(
        QueueOptions(max_requests, max_tokens, 30, ageing_s, newest_first, reserved or {}, credit_s)
    )


def make_tenant(name: str = "acme", *, weight: float = 1) -> Tenant:
    return Tenant(name, TenantLimits(weight, 0, 0, 0, SYSTEM), burst_s=1, now_s=0)


def make_entry(
    tenant: Tenant,
    c: ServiceClass = DEFAULT,
    *,
    prompt_tokens: int = 50,
    output_tokens: int = 50,
    since_s: float = 0,
    expires_s: float = 1e9,
    deadline_s: float | None = None,
) -> Entry:
    return TracedEntry(
        Ask(tenant.name, c, prompt_tokens, 1000, deadline_s),
        tenant,
        service_class=c,
        output_tokens=output_tokens,
        since_s=since_s,
        expires_s=expires_s,
    )


def push(queue: FairQueue, *entries: Entry) -> None:
    for entry in entries:
        queue.push(entry)


def pop(
    queue: FairQueue,
    now_s: float = 0,
    *,
    in_flight: Mapping[ServiceClass, int] | None = None,
    held_back: tuple[Tenant, ...] = (),
) -> Entry | None:
    return queue.pop(
        now_s, limit=10, in_flight=in_flight or {}, ready=lambda entry: entry.tenant not in held_back
    )
