"""Charts of text."""

from rich.cells import cell_len

from service.top.charts import Area, bar, spark


def test_spark_shows_the_latest_at_the_right() -> None:
    assert spark([1, 2, 4, 8], 4) == "▁▂▄█"
    assert spark([4], 3) == "  █"
    assert spark([], 3) == "   "
    assert spark([1], 0) == ""


def test_spark_is_scaled_by_what_it_shows() -> None:
    assert spark([800, 4, 8], 2) == "▄█"
    assert spark([4, 4], 2, beside=[800, 4, 8]) == "▄▄"


def test_spark_tells_0_from_not_known() -> None:
    assert spark([0, None, 8], 3) == "▁ █"
    assert spark([0, 0], 2) == "▁▁"


def test_bar() -> None:
    assert bar(0, 4, "green").plain == "────"
    assert bar(0.5, 4, "green").plain == "━━──"
    assert bar(0.4, 4, "green").plain == "━╸──"
    assert bar(1, 4, "green").plain == "━━━━"


def test_bar_shows_that_something_is_left_and_no_more_than_all() -> None:
    assert bar(0.001, 4, "green").plain == "╸───"
    assert bar(7, 4, "green").plain == "━━━━"
    assert bar(-1, 4, "green").plain == "────"


def drawn(area: Area, width: int, height: int) -> list[str]:
    return [row.plain for row in area.rows(width, height)]


def test_area_below_its_line() -> None:
    # Two rows for values, so that a line at the greatest of them has a place above.
    assert drawn(Area([4, 8, 8], [8, 8, 8], "cyan"), 3, 3) == ["▁▁▁", " ██", "███"]


def test_area_covers_a_line_that_it_is_beyond() -> None:
    assert drawn(Area([8, 8], [2, 2], "cyan"), 2, 3) == ["  ", "██", "██"]


def test_area_without_line() -> None:
    assert drawn(Area([1, 8, 16], (), "cyan"), 4, 2) == ["   █", " ▁██"]


def test_area_with_gaps_and_nothing() -> None:
    assert drawn(Area([None, 8], [None, None], "cyan"), 2, 2) == [" █", " █"]
    assert drawn(Area([], [], "cyan"), 3, 2) == ["   ", "   "]
    assert drawn(Area([0.0], [0.0], "cyan"), 1, 2) == [" ", "▁"]


def test_area_is_scaled_by_what_it_shows() -> None:
    assert drawn(Area([800, 4, 8], (), "cyan"), 2, 2) == [" █", "██"]


def test_area_has_the_size_asked_for() -> None:
    for height in range(1, 9):
        rows = drawn(Area([1.0, 5.0, 900.0], [7.0, None, 2.0], "cyan"), 11, height)
        assert len(rows) == height
        assert {cell_len(row) for row in rows} == {11}
