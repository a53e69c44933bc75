"""What the comparison with peers comes to, from streams that are made up."""

from pathlib import Path

import grpc
import pytest

from benchmarks.__main__ import read_arguments
from benchmarks.peers_cases import Figures, by_the_better, median_cell, tabulate
from benchmarks.peers_load import DONE, FAILED, LEFT, REFUSED, Stream, ending_of, mixed_samplings
from benchmarks.peers_page import table, update_page
from benchmarks.peers_serving import AS_SHIPPED, Case, Sample, make_sample, summarise
from benchmarks.peers_steady import GAP, GROWTH, gaps_within
from benchmarks.report import write_json
from benchmarks.result import make_result
from benchmarks.words import FIRST_WORD, VOCABULARY, word, words

LONG = "a prompt of 6,000 tokens beside 8 streams"


def sample(tokens_per_s: float, first_s: float = 0.1) -> Sample:
    return Sample(tokens_per_s, [first_s] * 20, [0.01], 100, 100, 0.5, 10_000_000, 0, 0, None)


def test_a_sample_counts_only_streams_that_were_answered() -> None:
    streams = [
        Stream(0.0, [0.5, 0.6, 0.9], 1.0, tokens=3),
        Stream(0.5, [0.75], 2.0, tokens=7),
        Stream(0.0, [0.1], 0.2, tokens=50, ending=FAILED),
        Stream(0.0, [], 0.1, ending=REFUSED),
        Stream(0.0, [], 0.1, ending=LEFT),
    ]
    made = make_sample(streams, 0.25, 1_000, None)
    assert made.tokens_per_s == pytest.approx(10 / 2.0)
    assert made.first_s == pytest.approx([0.5, 0.25])
    assert made.gaps_s == pytest.approx([0.1, 0.3])
    assert (made.tokens, made.messages, made.refused, made.failed) == (10, 4, 1, 1)
    assert streams[0].ending == DONE


def test_ratios_are_by_the_better_peer_of_each_round() -> None:
    case = Case("mixed", "loop", 75)
    runs = {
        "Penstock": [sample(200, 0.1), sample(300, 0.1), sample(100, 0.1)],
        "one": [sample(100, 0.5), sample(100, 0.5), sample(50, 0.5)],
        "one" + AS_SHIPPED: [sample(50, 0.2), sample(200, 0.2), sample(10, 0.2)],
    }
    result = summarise({case: runs}, "tiny")
    assert [row["system"] for row in result.rows] == ["Penstock", "one", "one (32)"]
    assert result.rows[0]["CPU s/1k"] == pytest.approx(5.0)
    rate, first = (value for name, value in result.ratios.items() if "better" in name)
    assert rate == pytest.approx(2.0)  # of 2, 1.5 and 2
    assert first == pytest.approx(0.5)


def test_without_peers_there_are_no_ratios() -> None:
    result = summarise({Case("greedy", "burst", 8): {"Penstock": [sample(1)]}}, "tiny")
    assert result.ratios.keys() == {"model", "date"}


def test_gaps_within_a_time_are_those_that_touch_it() -> None:
    stream = Stream(0.0, [1.0, 2.0, 4.0, 5.0])
    assert gaps_within(stream, 2.5, 4.5) == [2.0, 1.0]
    # Nothing came any more: the gap is open until the end.
    assert gaps_within(stream, 4.5, 8.0) == [1.0, 3.0]
    assert gaps_within(stream, 0.0, 1.5) == [1.0]


def test_streams_of_a_mix_differ() -> None:
    samplings = mixed_samplings(75, seeds=False)
    seen = {(each.temperature, each.top_p, each.top_k, each.min_p) for each in samplings}
    assert len(seen) == 75
    assert all(each.temperature > 0 and each.seed is None for each in samplings)
    assert {each.seed for each in mixed_samplings(8, seeds=True)} == set(range(8))


def test_cases_make_rows_of_figures_and_ratios() -> None:
    figures: dict[str, dict[str, list[Figures]]] = {
        LONG: {"Penstock": [{GAP: 10.0}, {GAP: 30.0}], "one": [{GAP: 100.0}], "two": [{GAP: 80.0}]},
        "a conversation": {"Penstock": [{GROWTH: 1.2}], "one": [{"": "not available: no such thing"}]},
    }
    rows, ratios = tabulate(figures)
    assert rows[0] == {"case": LONG, "figure": GAP, "Penstock": 20.0, "one": 100.0, "two": 80.0}
    assert [value for name, value in ratios.items() if "gap" in name] == [pytest.approx(0.25)]
    assert [value for name, value in ratios.items() if "turn" in name] == [1.2]
    assert rows[-1]["one"] == "not available: no such thing"


def test_a_figure_that_is_missing_has_no_ratio() -> None:
    assert by_the_better({"Penstock": None, "one": 1.0}) is None
    assert by_the_better({"Penstock": 1.0, "one": "no"}) is None
    assert by_the_better({"Penstock": 1.0, "one": 0}) is None
    assert by_the_better({"Penstock": 1.0, "one": 4.0, "two": 2}) == 0.5


def test_a_cell_is_the_median_or_the_last_text() -> None:
    assert median_cell([1, 5, 2]) == 2
    assert median_cell(["yes", "no"]) == "no"
    assert median_cell([None, 3.0]) == 3.0
    assert median_cell([0, 0]) == 0


def test_words_are_one_for_each_token() -> None:
    assert len({word(token_id) for token_id in range(FIRST_WORD, VOCABULARY)}) == VOCABULARY - FIRST_WORD
    assert words(50, 3) == words(50, 3) != words(50, 4)
    assert len(words(50, 3).split()) == 50


def test_the_page_gets_the_results_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "peers.md"
    page.write_text(
        "# Title\n<!-- written by benchmarks.peers_page from results/: begin -->\nold\n<!-- end -->\nafter\n"
    )
    case = Case("mixed", "loop", 8)
    result = summarise({case: {"Penstock": [sample(200)], "one": [sample(100)]}}, "tiny")
    write_json(result, tmp_path / "peers-serving.json")
    rows, ratios = tabulate({LONG: {"Penstock": [{GAP: 10.0}], "one": [{GAP: 100.0}]}})
    write_json(make_result("peers-cases", rows, ratios), tmp_path / "peers-cases.json")
    for _ in range(2):  # written again it is the same
        update_page(tmp_path, page)
        text = page.read_text()
        assert text.startswith("# Title\n")
        assert text.endswith("<!-- end -->\nafter\n")
        assert "old" not in text
        assert text.count("| 8 | Penstock | 200 |") == 1
        assert "| mixed loop, 8 streams: tokens/s by the better peer (goal 1.1) | 2 |" in text
        assert f"| {GAP} | 10 | 100 |" in text


def test_a_table_has_a_dash_for_what_is_missing() -> None:
    assert table(["a", "b"], [{"a": "x|y"}]) == ["| a | b |", "| --- | --- |", "| x\\|y | - |"]


@pytest.mark.parametrize(
    "given",
    [
        ("--embedded",),
        ("--embedded", "--only", "peers-cases"),
        ("--embedded", "--only", "peers-serving", "stall"),
        ("--repetitions", "0"),
        ("--only", "nothing"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        read_arguments(given)


def test_peers_serving_takes_rounds_and_the_embedded_model() -> None:
    arguments = read_arguments(["--only", "peers-serving", "--embedded", "--repetitions", "2"])
    assert (arguments.only, arguments.embedded, arguments.repetitions) == (["peers-serving"], True, 2)


def rpc_error(code: grpc.StatusCode, *, details: bool) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*([("grpc-status-details-bin", b"x")] if details else []))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details="no")


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, details=False), REFUSED),
        (rpc_error(grpc.StatusCode.UNAVAILABLE, details=True), REFUSED),
        (rpc_error(grpc.StatusCode.UNAVAILABLE, details=False), FAILED),
        (rpc_error(grpc.StatusCode.INTERNAL, details=True), FAILED),
        (RuntimeError("mlx_lm.server answered b'HTTP/1.0 503 ...'"), REFUSED),
        (RuntimeError("mlx_lm.server answered b'HTTP/1.0 404 ...'"), FAILED),
        (ConnectionResetError(), FAILED),
    ],
)
def test_a_refusal_is_not_a_failure(error: Exception, ending: str) -> None:
    assert ending_of(error)[0] == ending
