"""The loads under which admission is studied."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from benchmarks.simulation.plant import PlantModel
from benchmarks.simulation.workload import Arrival, Lengths, Mix, poisson

LAPTOP = PlantModel(4_000, 0.012, 0.0008, 64, 512, 200_000)
"""A small model on a laptop."""
SMALL_BATCH = PlantModel(4_000, 0.012, 0.0008, 16, 512, 200_000)
"""The same with places for 16 rows, fewer than the limit may be."""
SERVER = PlantModel(40_000, 0.012, 0.00015, 512, 4_096, 2_000_000)
"""A small model on a large machine."""
LARGE = PlantModel(1_500, 0.045, 0.0012, 128, 256, 24_000)
"""A model of 27 B parameters; its KV cache takes about 40 streams."""

CHAT = Mix(Lengths(300, 0.6, 20, 2_000), Lengths(100, 0.6, 8, 400))
SHORT = Mix(Lengths(200, 0.3, 20, 2_000), Lengths(100, 0.6, 8, 400))
LONG = Mix(Lengths(4_000, 0.3, 1_000, 8_000), Lengths(100, 0.6, 8, 400))
SLOW = Mix(CHAT.prompt, CHAT.output, slow_share=0.2, pause_tokens=16, pause_s=2.0)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in which the best constant limit is one and the same."""

    name: str
    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, eq=False)
class Scenario:
    """One load on one plant.

    rate: arrivals per second at a time, at most most_rate. callers: who ask again after finishing, besides.
    retries: whether refused arrivals come again after the delay they were told. speeds: (from, factor) of the
    plant. idle_until_s: end of an idle time after which a burst must find room. falls_s: when load falls.
    kv_told: whether the governor knows the plant's KV budget. noisy: the tenant that asks for more than its
    share. whole: what this is a phase of.
    """

    name: str
    about: str
    phases: tuple[Phase, ...]
    plant: PlantModel = LAPTOP
    mix: Callable[[float], Mix] = lambda at_s: CHAT
    rate: Callable[[float], float] = lambda at_s: 0.0
    most_rate: float = 0.0
    callers: int = 0
    retries: bool = False
    tenants: tuple[tuple[str, float], ...] = (("", 1.0),)
    noisy: str = ""
    speeds: tuple[tuple[float, float], ...] = ()
    idle_until_s: float | None = None
    falls_s: tuple[float, ...] = ()
    kv_told: bool = False
    whole: "tuple[Scenario, Phase] | None" = None
    target_ttft_s: float = 1.0
    target_latency_s: float = 0.1
    min_streams: int = 5
    max_streams: int = 64
    initial_streams: int = 32

    @property
    def duration_s(self) -> float:
        return self.phases[-1].end_s

    @cache  # noqa: B019  Scenarios live as long as the program.
    def arrivals(self, seed: int) -> tuple[Arrival, ...]:
        """The same for everybody."""
        if self.whole is not None:
            scenario, phase = self.whole
            all_of_them = scenario.arrivals(seed)
            inside = (one for one in all_of_them if phase.start_s <= one.at_s < phase.end_s)
            return tuple(replace(one, at_s=one.at_s - phase.start_s) for one in inside)
        if not self.most_rate:
            return ()
        return tuple(poisson(self.rate, self.most_rate, self.duration_s, self.mix, self.tenants, seed))

    @cache  # noqa: B019
    def alone(self, phase: Phase) -> "Scenario":
        """The phase from an idle start, with nothing after it: what is best in it depends on no other."""
        speeds = [(0.0, factor) for from_s, factor in self.speeds if from_s <= phase.start_s]
        return replace(
            self,
            phases=(Phase(phase.name, 0.0, phase.length_s),),
            speeds=tuple(speeds[-1:]),
            whole=(self, phase),
        )


def capacity(plant: PlantModel, mix: Mix, target_latency_s: float) -> float:
    """Streams per second with as many rows as the latency target allows."""
    rows = plant.rows_within(target_latency_s, mix.prompt.mean, mix.output.mean)
    return plant.streams_per_s(rows, mix.prompt.mean, mix.output.mean)


def _phases(*parts: tuple[str, float]) -> tuple[Phase, ...]:
    """Of (name, end)."""
    starts = [0.0, *(end for _, end in parts)]
    return tuple(Phase(name, start, end) for (name, end), start in zip(parts, starts, strict=False))


def _steps(*parts: tuple[float, float]) -> Callable[[float], float]:
    """Of (from, rate)."""
    return lambda at_s: next(rate for start, rate in reversed(parts) if at_s >= start)


def _scenarios() -> Iterator[Scenario]:
    yield from _loads()
    yield from _plants_and_prompts()
    yield from _callers()


def _loads() -> Iterator[Scenario]:
    chat = capacity(LAPTOP, CHAT, 0.1)
    yield Scenario(
        "step",
        "load steps from half of capacity to twice",
        _phases(("half", 30), ("twice", 120)),
        rate=_steps((0, chat / 2), (30, 2 * chat)),
        most_rate=2 * chat,
    )
    yield Scenario(
        "ramp",
        "load rises steadily from nothing to twice capacity",
        # At 60 s it meets capacity; a limit is felt from a little more on.
        _phases(("below", 70), ("above", 150)),
        rate=lambda at_s: min(2.0, at_s / 60) * chat,
        most_rate=2 * chat,
    )
    yield Scenario(
        "bursts",
        "0.3 of capacity, with bursts of ten times that for 30 s",
        _phases(("calm", 30), ("burst", 60), ("calm 2", 90), ("burst 2", 120), ("calm 3", 150)),
        rate=_steps((0, 0.3 * chat), (30, 3 * chat), (60, 0.3 * chat), (90, 3 * chat), (120, 0.3 * chat)),
        most_rate=3 * chat,
        falls_s=(60, 120),
    )
    yield Scenario(
        "throttle",
        "1.3 x capacity; the plant runs at half speed from 60 s to 120 s",
        _phases(("full", 60), ("halved", 120), ("restored", 180)),
        rate=lambda at_s: 1.3 * chat,
        most_rate=1.3 * chat,
        speeds=((60, 0.5), (120, 1.0)),
    )


def _plants_and_prompts() -> Iterator[Scenario]:
    chat = capacity(LAPTOP, CHAT, 0.1)
    few = SMALL_BATCH.streams_per_s(16, CHAT.prompt.mean, CHAT.output.mean)
    yield Scenario(
        "few-rows",
        "an engine with places for 16 rows, fewer than the limit may be; 1.5 x its capacity",
        _phases(("all", 120)),
        plant=SMALL_BATCH,
        rate=lambda at_s: 1.5 * few,
        most_rate=1.5 * few,
    )
    short, long = capacity(LAPTOP, SHORT, 0.2), capacity(LAPTOP, LONG, 0.2)
    yield Scenario(
        "prompts",
        "prompts of 200 tokens, from 60 s on of 4,000; 1.3 x capacity; 0.2 s between tokens",
        _phases(("short", 60), ("long", 180)),
        mix=lambda at_s: SHORT if at_s < 60 else LONG,
        rate=_steps((0, 1.3 * short), (60, 1.3 * long)),
        most_rate=1.3 * short,
        target_latency_s=0.2,
    )
    yield Scenario(
        "slow-readers",
        "a fifth of the callers read 16 tokens, then nothing for 2 s; 1.5 x capacity",
        _phases(("all", 120)),
        mix=lambda at_s: SLOW,
        rate=lambda at_s: 1.5 * chat,
        most_rate=1.5 * chat,
        max_streams=128,
    )


def _callers() -> Iterator[Scenario]:
    chat = capacity(LAPTOP, CHAT, 0.1)
    yield Scenario(
        "idle",
        "60 s of load, ten minutes of nothing, then 1.5 x capacity at once",
        _phases(("before", 60), ("idle", 660), ("after", 720)),
        rate=_steps((0, 0.8 * chat), (60, 0.0), (660, 1.5 * chat)),
        most_rate=1.5 * chat,
        idle_until_s=660,
    )
    # At twice capacity the other nine would fill it alone, and nobody who waits for a second at most could
    # have the share that is due.
    tenants = tuple((f"t{n}", 1.0) for n in range(9))
    yield Scenario(
        "noisy-tenant",
        "ten tenants; one asks for ten times as much as the others; 1.5 x capacity in all",
        _phases(("all", 120)),
        rate=lambda at_s: 1.5 * chat,
        most_rate=1.5 * chat,
        tenants=(*tenants, ("noisy", 10.0)),
        noisy="noisy",
    )
    yield Scenario("callers-75", "75 callers who ask again at once", _phases(("all", 120)), callers=75)
    yield Scenario(
        "callers-1000",
        "1,000 callers who ask again at once, on a large machine",
        _phases(("all", 60)),
        plant=SERVER,
        callers=1000,
        max_streams=512,
        initial_streams=64,
    )
    yield from _large()
    yield Scenario(
        "retries",
        "half of capacity; at 30 s, 300 callers more within a second, who retry when told",
        _phases(("before", 30), ("storm", 120)),
        rate=_steps((0, chat / 2), (30, 300), (31, chat / 2)),
        most_rate=300,
        retries=True,
    )


def _large() -> Iterator[Scenario]:
    rate = 1.5 * capacity(LARGE, CHAT, 0.25)
    for told in (False, True):
        yield Scenario(
            "27b-kv-told" if told else "27b",
            "a model of 27 B parameters whose KV budget binds; 1.5 x capacity"
            + ("; the governor knows the budget" if told else ""),
            _phases(("all", 180)),
            plant=LARGE,
            rate=lambda at_s: rate,
            most_rate=rate,
            target_latency_s=0.25,
            kv_told=told,
        )


SCENARIOS: Mapping[str, Scenario] = {one.name: one for one in _scenarios()}
