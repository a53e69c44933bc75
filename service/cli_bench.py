"""`penstock bench`: load on a server, and how it answers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from penstock import InvalidRequestError
from penstock.request import PRIORITIES
from penstock.tenant import tenant_metadata
from service.load.arrivals import expected
from service.load.options import ArrivalKind, BurstShape, LoadOptions, Targets
from service.load.session import run_session
from service.terminal import TARGET, TargetOption, run_command

MAX_DURATION_S = 600.0
MAX_STREAMS = 2000
MAX_REQUESTS = 200_000
MAX_TENANTS = 100
DEFAULT_RATE_PER_S = 10.0
DEFAULT_CALLERS = 10
DEFAULT_TRIES = 5


def _number(low: float, high: float, text: str, default: bool | str = True) -> Any:
    return typer.Option(min=low, max=high, help=text, show_default=default)


def _whole(low: int, high: int, text: str, default: bool | str = True) -> Any:
    return typer.Option(min=low, max=high, help=text, show_default=default)


Rate = Annotated[float | None, _number(0.01, 2000, "Requests per second; outside of bursts.", default="10")]
Duration = Annotated[float, _number(0.1, MAX_DURATION_S, "Seconds during which requests are sent.")]
Arrivals = Annotated[ArrivalKind, typer.Option(help="When requests are sent; closed: by --callers.")]
BurstFactor = Annotated[float, _number(1, 1000, "Times the rate in a burst.")]
BurstSeconds = Annotated[float, _number(0.1, MAX_DURATION_S, "Length of a burst.")]
PeriodSeconds = Annotated[float, _number(0.1, MAX_DURATION_S, "From one burst's end to the next one's.")]
Callers = Annotated[int | None, _whole(1, MAX_STREAMS, "Callers of a closed loop.", default="10")]
RequestCount = Annotated[int | None, _whole(1, MAX_REQUESTS, "Most requests of a closed loop.")]
PromptTokens = Annotated[int, _whole(1, 1_000_000, "Tokens of a prompt, about.")]
MaxTokens = Annotated[int, _whole(1, 1_000_000, "Tokens of an answer.")]
RespectEos = Annotated[bool, typer.Option("--respect-eos", help="Let answers end before --max-tokens.")]
PriorityName = Annotated[str | None, typer.Option(help=f"Class of service: {', '.join(PRIORITIES)}.")]
ModelName = Annotated[str | None, typer.Option(help="Name of the model.")]
Tenant = Annotated[str | None, typer.Option(help="Whom the requests count for.")]
Tenants = Annotated[str | None, typer.Option(metavar="NAME=SHARE,...", help="Several, by share of the rate.")]
Timeout = Annotated[float | None, _number(0.01, 3600, "Deadline of each call, seconds.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try again when refused, after the time told.")]
MaxTries = Annotated[int | None, _whole(2, 100, "Most calls for one request, with --retry.", default="5")]
TargetTtft = Annotated[float, _number(0, 3_600_000, "Time to first token of a good answer; 0: any.")]
TargetLatency = Annotated[float, _number(0, 3_600_000, "Mean time between its tokens; 0: any.")]
Grace = Annotated[float, _number(0, MAX_DURATION_S, "Wait for open streams at the end.")]
Seed = Annotated[int, _whole(0, 2**53, "Repeats arrivals, prompts, tenants and sampling.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help='All numbers as JSON; "-": in place of tables.')
]


def bench(
    rate: Rate = None,
    duration: Duration = 30.0,
    arrivals: Arrivals = ArrivalKind.POISSON,
    burst_factor: BurstFactor = 10.0,
    burst_seconds: BurstSeconds = 5.0,
    period_seconds: PeriodSeconds = 15.0,
    callers: Callers = None,
    requests: RequestCount = None,
    prompt_tokens: PromptTokens = 32,
    max_tokens: MaxTokens = 64,
    respect_eos: RespectEos = False,
    priority: PriorityName = None,
    model: ModelName = None,
    tenant: Tenant = None,
    tenants: Tenants = None,
    timeout: Timeout = None,
    retry: Retry = False,
    max_tries: MaxTries = None,
    target_ttft_ms: TargetTtft = 1000.0,
    target_latency_ms: TargetLatency = 200.0,
    grace_seconds: Grace = 30.0,
    seed: Seed = 0,
    json_file: JsonFile = None,
    target: TargetOption = TARGET,
) -> None:
    """Put load on a server and show how it answers. A late answer never delays the next request."""
    options = LoadOptions(
        target=target,
        arrivals=arrivals,
        rate_per_s=DEFAULT_RATE_PER_S if rate is None else rate,
        duration_s=duration,
        grace_s=grace_seconds,
        burst=BurstShape(burst_factor, burst_seconds, period_seconds),
        callers=callers or DEFAULT_CALLERS,
        max_requests=requests or 0,
        max_tries=(max_tries or DEFAULT_TRIES) if retry else 1,
        max_streams=MAX_STREAMS,
        tenants=_shares(tenant, tenants),
        priority=_priority(priority),
        model=model,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        ignore_eos=not respect_eos,
        timeout_s=timeout,
        targets=Targets(target_ttft_ms / 1000, target_latency_ms / 1000),
        seed=seed,
    )
    for_closed = {"--callers": callers, "--requests": requests}
    _check(options, for_open={"--rate": rate}, for_closed=for_closed, for_retry={"--max-tries": max_tries})
    _check_file(json_file)
    run_command(lambda: run_session(options, json_file), target, on_interrupt="interrupted")


def _check(
    options: LoadOptions,
    *,
    for_open: Mapping[str, object],
    for_closed: Mapping[str, object],
    for_retry: Mapping[str, object],
) -> None:
    """What no single option can know. for_...: values as given, of options that mean nothing otherwise."""
    closed = options.arrivals is ArrivalKind.CLOSED
    for given, means, needed in (
        (for_open, not closed, "--arrivals poisson, burst or constant"),
        (for_closed, closed, "--arrivals closed"),
        (for_retry, options.max_tries > 1, "--retry"),
    ):
        for name, value in given.items():
            if value is not None and not means:
                _refuse(name, f"allowed only with {needed}.")
    burst, duration_s = options.burst, options.duration_s
    if options.arrivals is ArrivalKind.BURST:
        if burst.burst_s >= burst.period_s:
            allowed = f"less than --period-seconds, {burst.period_s:g}"
            _refuse("--burst-seconds", f"got {burst.burst_s:g}; allowed: {allowed}.")
        if burst.period_s > duration_s:
            _refuse("--period-seconds", f"got {burst.period_s:g}; allowed: up to --duration, {duration_s:g}.")
    if not closed and expected(options) > MAX_REQUESTS:
        _refuse("--rate", f"gives {expected(options):.0f} requests in all; allowed: up to {MAX_REQUESTS}.")


def _refuse(option: str, problem: str) -> NoReturn:
    raise typer.BadParameter(problem, param_hint=f"'{option}'")


def _priority(name: str | None) -> str | None:
    if name is not None and name not in PRIORITIES:
        _refuse("--priority", f"got {name!r}; allowed: {', '.join(PRIORITIES)}.")
    return name


def _shares(tenant: str | None, tenants: str | None) -> dict[str, float]:
    """Each tenant's share of the requests; empty for none."""
    if tenant is not None and tenants is not None:
        _refuse("--tenants", "give either --tenant or --tenants.")
    if tenants is None:
        return {} if tenant is None else {_tenant_name(tenant, "--tenant"): 1.0}
    shares: dict[str, float] = {}
    for part in tenants.split(","):
        name, _, number = part.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not 0 < share < math.inf:
            _refuse(
                "--tenants", f"got {part!r}; allowed: NAME=SHARE, with a share above 0, such as a=1,b=10."
            )
        if name in shares:
            _refuse("--tenants", f"names {name!r} twice.")
        shares[_tenant_name(name, "--tenants")] = share
    if len(shares) > MAX_TENANTS:
        _refuse("--tenants", f"got {len(shares)} tenants; allowed: up to {MAX_TENANTS}.")
    return shares


def _tenant_name(name: str, option: str) -> str:
    try:
        tenant_metadata(name)
    except InvalidRequestError as error:
        _refuse(option, f"{error.violations[0][1]}.")
    return name


def _check_file(json_file: str | None) -> None:
    """Before the run, whose numbers would be lost otherwise."""
    if json_file is None or json_file == "-":
        return
    try:
        with Path(json_file).open("a", encoding="utf-8"):
            pass
    except OSError as error:
        _refuse("--json", f"{json_file}: {error.strerror or error}.")
