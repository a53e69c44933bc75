"""Memory that processes may still take on this machine."""

import os
from pathlib import Path

# A limit of this size or more is how cgroup v1 says that there is none.
_NO_LIMIT_BYTES = 2**60


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that processes may still take on this machine, None when nothing tells.

    On Linux what the kernel calls available, less where a control group allows less. Elsewhere the whole
    memory, since what is in use is not told alike. root: where proc and sys are.
    """
    try:
        meminfo = (root / "proc" / "meminfo").read_text()
    except OSError:
        return _physical_bytes()
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    words = fields.get("MemAvailable", "").split()
    if not words:
        return _physical_bytes()
    return min([int(words[0]) * 1024, *_group_bytes(root)])


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _group_bytes(root: Path) -> list[int]:
    """What each control group that this process is in still allows; those above it count too."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = root / "sys" / "fs" / "cgroup"
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount /= "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = mount / path.lstrip("/")
        for each in (group, *group.parents):
            left += _left_of_group(each, *names)
            if each == mount:
                break
    return left


def _left_of_group(group: Path, limit_file: str, usage_file: str, cache_field: str) -> list[int]:
    """One number, or none where there is no limit. Cached files are given up when memory is short."""
    try:
        limit = int((group / limit_file).read_text())
        usage = int((group / usage_file).read_text())
        stat = dict(line.split(maxsplit=1) for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max" is no number: no limit.
        return []
    if limit >= _NO_LIMIT_BYTES:
        return []
    return [max(0, limit - usage + int(stat.get(cache_field, "0")))]
