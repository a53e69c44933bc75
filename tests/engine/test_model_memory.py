"""Sizes of models, what this machine can give, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract import EngineError
from engine.machine_memory import available_bytes
from engine.model_memory import WORKER_BYTES, check_memory, needed_bytes, weights_bytes
from engine.options import HostOptions
from flowcontrol.reasons import Reason

MIB = 2**20
OPTIONS = HostOptions(
    source="embedded", load=(), aliases=(), idle_unload_s=0.0, max_memory_bytes=0, workers=2, kv_bytes=100
)


def weights_in(directory: Path, **sizes: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, number_bytes in sizes.items():
        (directory / f"{name}.safetensors").write_bytes(bytes(number_bytes))
    return directory


def test_the_weights_of_a_directory_are_those_that_are_loaded(tmp_path: Path) -> None:
    weights_in(tmp_path, model_1=100, model_2=20, adapter=7)
    (tmp_path / "model.json").write_bytes(bytes(50))
    assert weights_bytes(str(tmp_path)) == 120


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_the_weights_of_a_hub_name_are_known_once_they_were_downloaded(variable: str, tmp_path: Path) -> None:
    environ = {variable: str(tmp_path)}
    hub = tmp_path if variable == "HF_HUB_CACHE" else tmp_path / "hub"
    assert weights_bytes("org/name", environ) is None
    refs = hub / "models--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("abc\n")
    assert weights_bytes("org/name", environ) is None
    snapshot = hub / "models--org--name" / "snapshots" / "abc"
    weights_in(snapshot)
    assert weights_bytes("org/name", environ) is None
    weights_in(snapshot, model=64)
    assert weights_bytes("org/name", environ) == 64


def test_every_worker_needs_weights_kv_caches_and_itself() -> None:
    assert needed_bytes(1000, OPTIONS) == 2 * (1000 + 100 + WORKER_BYTES)


def refused(options: HostOptions, **memory: int | None) -> str:
    """The refusal of a model with 1 GiB of weights; empty when there is none."""
    given = {"taken": 0, "promised": 0, "available": None, **memory}
    try:
        check_memory("./big", 1024 * MIB, options, **given)  # type: ignore[arg-type]
    except EngineError as error:
        return error.message if error.reason is Reason.MODEL_MEMORY else error.reason
    return ""


def test_what_the_machine_has_less_what_is_promised_must_suffice() -> None:
    needed = needed_bytes(1024 * MIB, OPTIONS)
    assert not refused(OPTIONS, available=needed)
    assert refused(OPTIONS, available=needed - 1)
    assert refused(OPTIONS, available=needed, promised=1)
    assert not refused(OPTIONS, available=needed, taken=10 * needed), "what is taken is not available anyway"
    assert not refused(OPTIONS, available=None, promised=needed)


def test_a_configured_maximum_counts_alone() -> None:
    needed = needed_bytes(1024 * MIB, OPTIONS)
    options = replace(OPTIONS, max_memory_bytes=3 * needed)
    assert not refused(options, taken=2 * needed, available=0)
    assert refused(options, taken=2 * needed + 1, available=10 * needed)
    assert refused(options, taken=5 * needed)


def test_a_refusal_has_the_numbers_and_says_what_to_do() -> None:
    message = refused(OPTIONS, available=100 * MIB, promised=30 * MIB)
    for part in (
        "./big",
        "2560 MiB",
        "1024 MiB of weights",
        "100 MiB to give",
        "30 MiB of it",
        "Unload a model",
    ):
        assert part in message
    message = refused(replace(OPTIONS, max_memory_bytes=500 * MIB), taken=200 * MIB)
    for part in ("models.max_memory_bytes", "500 MiB", "200 MiB"):
        assert part in message


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:    4000 kB\n"}
CGROUP = "sys/fs/cgroup"


def test_linux_tells_what_is_available(tmp_path: Path) -> None:
    assert available_bytes(machine(tmp_path, MEMINFO)) == 4000 * 1024


@pytest.mark.parametrize(
    ("group", "files"),
    [
        (
            "0::/a/b",
            {"a/b/memory.max": "900", "a/b/memory.current": "500", "a/b/memory.stat": "inactive_file 20"},
        ),
        ("0::/a/b", {"a/memory.max": "900", "a/memory.current": "500", "a/memory.stat": "inactive_file 20"}),
        (
            "5:cpu,memory:/x",
            {
                "memory/memory.limit_in_bytes": "900",
                "memory/memory.usage_in_bytes": "500",
                "memory/memory.stat": "cache 9\ntotal_inactive_file 20",
            },
        ),
    ],
    ids=["v2", "v2 above", "v1 in a container"],
)
def test_a_control_group_may_allow_less(group: str, files: dict[str, str], tmp_path: Path) -> None:
    named = {f"{CGROUP}/{name}": text for name, text in files.items()}
    machine(tmp_path, {**MEMINFO, "proc/self/cgroup": f"9:name=systemd:/\n{group}\n", **named})
    assert available_bytes(tmp_path) == 900 - 500 + 20


@pytest.mark.parametrize("limit", ["max", "9223372036854771712"])
def test_a_control_group_without_a_limit_changes_nothing(limit: str, tmp_path: Path) -> None:
    files = {"memory.max": limit, "memory.current": "5", "memory.stat": "inactive_file 2"}
    named = {f"{CGROUP}/{name}": text for name, text in files.items()}
    machine(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/\n", **named})
    assert available_bytes(tmp_path) == 4000 * 1024


def test_a_group_that_uses_more_than_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"memory.max": "10", "memory.current": "15", "memory.stat": "inactive_file 0"}
    named = {f"{CGROUP}/{name}": text for name, text in files.items()}
    machine(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/\n", **named})
    assert available_bytes(tmp_path) == 0


def test_elsewhere_the_whole_memory_is_told(tmp_path: Path) -> None:
    physical = available_bytes(tmp_path)
    assert physical is not None
    assert physical > 64 * MIB
    machine(tmp_path, {"proc/meminfo": "MemTotal: 1 kB\n"})
    assert available_bytes(tmp_path) == physical


def test_this_machine_has_memory() -> None:
    available = available_bytes()
    assert available is not None
    assert available > MIB
