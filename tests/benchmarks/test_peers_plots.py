"""Plots are drawn from results with and without all of their figures."""

from pathlib import Path

import pytest

from benchmarks import overhead, peers_cases, peers_serving
from benchmarks.overhead import Spent, spent
from benchmarks.peers_serving import Case, Sample, summarise
from benchmarks.peers_steady import GAP
from benchmarks.result import Row, make_result
from penstock.v1.status_pb2 import Status, Worker

PNG = b"\x89PNG"


def test_serving_is_drawn_also_where_a_system_has_no_run(tmp_path: Path) -> None:
    sample = Sample(10.0, [0.1], [0.01], 10, 10, None, 0, 0, 0, None)
    cases = {
        Case("mixed", "loop", 8): {"Penstock": [sample], "one": [sample]},
        Case("mixed", "burst", 75): {"Penstock": [sample], "one": [sample], "one (32)": [sample]},
    }
    peers_serving.plot(summarise(cases, "tiny"), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_cases_are_drawn_also_where_one_is_not_available(tmp_path: Path) -> None:
    rows: list[Row] = [{"case": "a", "figure": GAP, "Penstock": 1.0, "one": "not available: no"}]
    peers_cases.plot(make_result("peers-cases", rows, {}), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_the_share_outside_the_model_is_that_between_two_statuses(tmp_path: Path) -> None:
    worker = Worker(step_s=2.0, outside_model_s=0.5, decode_steps=10, generated_tokens=40)
    before = spent(Status(workers=[worker]))
    after = spent(Status(workers=[worker, Worker(step_s=1.0, outside_model_s=0.1, decode_steps=20)]))
    row = after.since(before).row()
    assert row["ms/step"] == pytest.approx(50.0)
    assert row["outside the model, ms/step"] == pytest.approx(5.0)
    assert row["share outside the model"] == pytest.approx(0.1)
    rows: list[Row] = [
        {"mix": "greedy", "streams": 32, **row},
        {"mix": "mixed", "streams": 32, **Spent(0.0, 0.0, 5, 10).row()},
    ]
    assert rows[1]["share outside the model"] is None
    assert rows[1]["rows/step"] == 2
    overhead.plot(make_result("overhead", rows, {}), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
