"""When something is due for what waits."""

from heapq import heapify, heappop, heappush

from flowcontrol.admission.fair_band import Place


class Alarms:
    """Places by the time at which something is due for them; those that no longer wait do not count."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[float, Place]] = []

    def add(self, at_s: float, place: Place, waiting: int) -> None:
        """waiting: places that wait. Memory stays in proportion to it, however fast requests come and go."""
        if len(self._heap) > 2 * waiting + 64:
            self._heap = [alarm for alarm in self._heap if alarm[1].waiting]
            heapify(self._heap)
        heappush(self._heap, (at_s, place))

    def next_s(self) -> float | None:
        while self._heap and not self._heap[0][1].waiting:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_s: float) -> Place | None:
        at_s = self.next_s()
        return None if at_s is None or at_s > now_s else heappop(self._heap)[1]
