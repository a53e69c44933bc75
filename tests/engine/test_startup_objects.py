"""What was there at the start is left out of collections; what comes later is not."""

import gc
import weakref

from engine.startup_objects import freeze_startup_objects


class Node:
    """In a cycle, so that only the collector can free it."""

    def __init__(self) -> None:
        self.me = self


def test_collections_look_only_at_what_came_after() -> None:
    before = len(gc.get_objects())
    freeze_startup_objects()
    try:
        assert gc.get_freeze_count() > before / 2
        assert len(gc.get_objects()) < before / 2
        later = weakref.ref(Node())
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()
