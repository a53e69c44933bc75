"""The short form of `make chaos`: a disturbed pool gives every stream's exact text."""

import sys

import pytest

from tests.integration.processes import run


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.timeout(400)
def test_nothing_is_lost_when_workers_die() -> None:
    size = ("--minutes", "0.1", "--events", "8", "--requests", "4", "--max-tokens", "40", "--seed", "5")
    done = run(sys.executable, "-m", "benchmarks.chaos", *size, timeout_s=380)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout
