"""Who asks when, and for what."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from flowcontrol.admission.ask import ServiceClass

# Servers estimate a prompt's tokens from its bytes: off by a factor up to this.
_ESTIMATE_FACTOR = 1.25


@dataclass(frozen=True)
class Lengths:
    """Lognormal token counts, clipped."""

    median: float
    sigma: float
    low: int
    high: int

    def draw(self, random: Random) -> int:
        return round(min(self.high, max(self.low, random.lognormvariate(math.log(self.median), self.sigma))))

    @cached_property
    def mean(self) -> float:
        """Of many draws: clipping leaves no short formula."""
        random = Random(0)
        return sum(self.draw(random) for _ in range(20_000)) / 20_000


@dataclass(frozen=True)
class Mix:
    """What is asked for. slow_share: of callers that read pause_tokens and then nothing for pause_s."""

    prompt: Lengths
    output: Lengths
    slow_share: float = 0.0
    pause_tokens: int = 0
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """estimated_tokens: what the server takes prompt_tokens for until it has tokenised."""

    tenant: str
    service_class: ServiceClass
    prompt_tokens: int
    estimated_tokens: int
    output_tokens: int
    max_tokens: int
    pause_tokens: int
    pause_s: float


def draw_request(mix: Mix, tenant: str, random: Random) -> Request:
    prompt_tokens = mix.prompt.draw(random)
    factor = _ESTIMATE_FACTOR ** random.uniform(-1, 1)
    output_tokens = mix.output.draw(random)
    slow = random.random() < mix.slow_share
    return Request(
        tenant=tenant,
        service_class=ServiceClass.INTERACTIVE,
        prompt_tokens=prompt_tokens,
        estimated_tokens=max(1, round(prompt_tokens * factor)),
        output_tokens=output_tokens,
        max_tokens=mix.output.high,
        pause_tokens=mix.pause_tokens if slow else 0,
        pause_s=mix.pause_s if slow else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    request: Request


def poisson(
    rate: Callable[[float], float],
    most: float,
    duration_s: float,
    mix: Callable[[float], Mix],
    tenants: Sequence[tuple[str, float]],
    seed: int,
) -> Iterator[Arrival]:
    """Arrivals at rate(t) per second, at most `most`, by thinning (Lewis and Shedler 1979).

    tenants: names with their shares of the arrivals.
    """
    random = Random(seed)
    names = [name for name, _ in tenants]
    shares = [share for _, share in tenants]
    at_s = random.expovariate(most)
    while at_s < duration_s:
        if random.random() * most < rate(at_s):
            [tenant] = random.choices(names, shares)
            yield Arrival(at_s, draw_request(mix(at_s), tenant, random))
        at_s += random.expovariate(most)
