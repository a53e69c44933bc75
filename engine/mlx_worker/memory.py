"""Memory of this process."""

import resource
import sys
from pathlib import Path


def resident_bytes() -> int:
    """Resident memory of this process."""
    if sys.platform.startswith("linux"):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()
    # Elsewhere only the peak is known.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
