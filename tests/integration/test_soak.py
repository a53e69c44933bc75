"""The soak run in a short form: a minute of mixed load with disturbances, and nothing may leak."""

import json
import sys
from pathlib import Path

import pytest

from tests.integration.processes import run

LIMIT_S = 540.0


@pytest.mark.timeout(LIMIT_S + 30)
def test_a_minute_of_mixed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    report, plot = tmp_path / "soak.json", tmp_path / "soak.png"
    done = run(
        sys.executable,
        *("-m", "benchmarks.soak", "--minutes", "1", "--json", str(report), "--plot", str(plot)),
        timeout_s=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "PASSED" in done.stdout
    ratios = json.loads(report.read_bytes())["ratios"]
    assert ratios["violations"] == 0
    assert ratios["streams"] > 0
    assert ratios["ended by a fault of the server, share"] < 0.005
    assert plot.read_bytes().startswith(b"\x89PNG")
