"""The picture of `penstock top` as a file."""

import re
from xml.etree import ElementTree

from benchmarks.top_picture import svg
from tests.service.top_statuses import heard, in_trouble


def test_the_picture_is_whole_and_needs_nothing_from_another_host() -> None:
    drawn = svg(heard([in_trouble(100.0), in_trouble(102.0)]))
    shown = " ".join("".join(ElementTree.fromstring(drawn).itertext()).split())
    assert "Streams: 7, the stalled ones first" in shown.replace("\N{NO-BREAK SPACE}", " ")
    assert not re.search(r"""(url\(|href=)["']?http""", drawn)


def test_lines_of_the_picture_meet() -> None:
    """What is behind a full block reaches the line above, and no line is cut."""
    drawn = svg(heard([in_trouble(100.0), in_trouble(102.0)]))
    assert 'height="26.15"' in drawn
    assert "top-line-1)" not in drawn
    assert "font-size: 21px" in drawn
