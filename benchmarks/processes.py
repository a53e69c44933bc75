"""Child processes of a benchmark, and the CPU time and memory that they and the machine use."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_END_TIMEOUT_S = 20.0
# Fields of the first line of /proc/stat: user nice system idle iowait irq softirq steal ...
_BUSY_FIELDS = (0, 1, 2, 5, 6, 7)
# Fields of /proc/PID/stat after the name in parentheses: utime, stime, and those of ended children.
_CPU_FIELDS = slice(11, 15)
# A process counts as idle when it used less than this share of a core while it was looked at for so long.
_IDLE_SHARE = 0.1
_IDLE_LOOK_S = 0.25


class Child:
    """A Python process that talks in lines. Ended, with what it started, when the block is left.

    python: the interpreter, this one's unless told. log: a file for its standard error.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environ: dict[str, str] | None = None,
        python: str = sys.executable,
        log: Path | None = None,
    ) -> None:
        # Options of a server that happen to be set here must not change what is measured.
        clean = {key: value for key, value in os.environ.items() if not key.upper().startswith("PENSTOCK_")}
        self._module = module
        with ExitStack() as stack:
            self._process = subprocess.Popen(
                [python, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(log.open("w")) if log is not None else None,
                text=True,
                env=clean | (environ or {}),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self, limit_s: float) -> int | None:
        """Ask it to end (SIGTERM) and wait: its exit status, negative for a signal; None when it runs on."""
        self._process.terminate()
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def read_line(self) -> str:
        """The next line that it prints. Raises RuntimeError when it has ended."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError(f"{self._module} ended with status {self._process.wait()}")
        return line.rstrip("\n")

    def ask(self, line: str) -> str:
        """Send a line and wait for the answer. Raises RuntimeError when it has ended."""
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self.read_line()


def cpu_s(pids: Sequence[int]) -> float | None:
    """CPU seconds used so far by these processes and all below them; None where there is no /proc."""
    if not sys.platform.startswith("linux"):
        return None
    return sum(_ticks(pid) for pid in pids) / os.sysconf("SC_CLK_TCK")


def machine_busy_s() -> float | None:
    """CPU seconds used so far by everything on this machine; None where there is no /proc."""
    if not sys.platform.startswith("linux"):
        return None
    fields = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=11)[1:11]
    return sum(int(fields[index]) for index in _BUSY_FIELDS) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and of all below it; 0 where there is no /proc."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        children = _children(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(rss_bytes(child) for child in children)


def forget_peak_rss(pid: int) -> None:
    """Begin anew with what `peak_rss_bytes` tells."""
    for each in family(pid):
        with suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text("5")


def peak_rss_bytes(pid: int) -> int:
    """The most resident memory since it was forgotten of a process and of all below it, each at its own
    moment; 0 where there is no /proc."""
    peaks_kb = 0
    for each in family(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{each}/status").read_text(encoding="utf-8", errors="replace").splitlines()
            peaks_kb += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return peaks_kb * 1024


def family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = _children(pid)
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in children for each in family(child))]


def wait_until_idle(pid: int, *, limit_s: float) -> bool:
    """Wait until a process and all below it use next to no CPU; False when that was not so in limit_s."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < limit_s:
        before_s = cpu_s([pid])
        time.sleep(_IDLE_LOOK_S)
        after_s = cpu_s([pid])
        if before_s is None or after_s is None or after_s - before_s < _IDLE_SHARE * _IDLE_LOOK_S:
            return True
    return False


def _ticks(pid: int) -> int:
    """Clock ticks of a process, of its children that have ended and of those that run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        children = _children(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = sum(int(field) for field in stat.rpartition(")")[2].split()[_CPU_FIELDS])
    return own + sum(_ticks(child) for child in children)


def _children(pid: int) -> list[int]:
    """Raises FileNotFoundError or ProcessLookupError when the process has ended."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
