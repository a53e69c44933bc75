"""Growth of counters whose owners may begin anew."""

from service.growth import Growth


def test_growth_is_what_came_since_and_all_of_a_new_life() -> None:
    growth: Growth[str] = Growth()
    assert growth.take({"a": 5.0}) == {"a": 5.0}
    assert growth.take({"a": 7.0, "b": 1.0}) == {"a": 2.0, "b": 1.0}
    assert growth.take({"a": 3.0}) == {"a": 3.0}
    assert growth.take({"b": 4.0}) == {"b": 4.0}
