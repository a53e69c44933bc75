"""A request that waits, as the queue sees it."""

from dataclasses import KW_ONLY, dataclass

from flowcontrol.admission.ask import Ask, ServiceClass
from flowcontrol.admission.tenants import Tenant


@dataclass(slots=True, eq=False)
class Entry:
    """A request that may wait. Compared by identity.

    output_tokens: expected. since_s: when it came. expires_s: until when it may wait.
    """

    ask: Ask
    tenant: Tenant
    _: KW_ONLY
    service_class: ServiceClass
    output_tokens: int
    since_s: float
    expires_s: float

    @property
    def tokens(self) -> int:
        """Prompt and expected output."""
        return self.ask.prompt_tokens + self.output_tokens
