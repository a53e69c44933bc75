"""Tells people: alerts go to the log, and to a webhook where one is configured."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.alert import Alert, Severity
from service.options import AlertOptions
from service.webhook import Webhook, write_log

CLOSE_WITHIN_S = 5.0
_CANCEL_WITHIN_S = 1.0

_LEVELS = {
    Severity.INFO: logging.INFO,
    Severity.WARNING: logging.WARNING,
    Severity.CRITICAL: logging.CRITICAL,
}


@dataclass(frozen=True, slots=True)
class AlertsSnapshot:
    """What became of alerts that were for the webhook, since the start; all zero without one.

    delivered: accepted by it. retried: posts that were not the first of their alert. given_up: refused by it,
    tried often enough, or not yet delivered when the server ended. dropped: never tried, since too many
    waited or the server had ended. waiting: now, with the one that is being posted.
    """

    delivered: int
    retried: int
    given_up: int
    dropped: int
    waiting: int


class Alerts:
    """Logs alerts at once and posts them in their order, one at a time. For one asyncio loop only."""

    def __init__(
        self,
        options: AlertOptions,
        *,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """chance, clock and sleep: as in `Webhook`.

        With an address this reads the system's certificates, about 0.1 s: make it before streams run.
        """
        self._webhook: Webhook | None = None
        if options.webhook_url:
            self._webhook = Webhook(options, chance=chance, clock=clock, sleep=sleep)
        self._queue_size = options.queue_size
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._in_post = False
        self._delivered = self._given_up = self._dropped = 0
        self._closing = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to post, in the running loop; what was told before waits until then."""
        if self._webhook is not None and self._task is None and not self._closing:
            self._task = asyncio.create_task(self._deliver(self._webhook), name="alerts")

    def tell(self, alert: Alert) -> None:
        """Log the alert and let it be posted. Returns at once and raises nothing.

        When too many wait, the one that waits longest is dropped for it.
        """
        write_log(
            _LEVELS[alert.severity],
            "alert",
            alert_id=alert.id,
            kind=alert.kind.value,
            severity=alert.severity.value,
            subject=alert.subject,
            text=alert.text,
            details=dict(alert.details),
        )
        if self._webhook is not None:
            self._put(alert)

    def snapshot(self) -> AlertsSnapshot:
        return AlertsSnapshot(
            delivered=self._delivered,
            retried=self._webhook.retried if self._webhook else 0,
            given_up=self._given_up,
            dropped=self._dropped,
            waiting=len(self._waiting) + self._in_post,
        )

    async def close(self, within_s: float = CLOSE_WITHIN_S) -> None:
        """Post what waits for within_s seconds at most, then give up the rest. May be called again."""
        self._closing = True
        self._changed.set()
        try:
            if self._task is not None:
                await asyncio.wait({self._task}, timeout=within_s)
        finally:
            await self._give_up_rest()

    def _put(self, alert: Alert) -> None:
        if self._closing:
            self._dropped += 1
            return
        if len(self._waiting) >= self._queue_size:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append((alert.id, alert.body()))
        self._changed.set()

    async def _deliver(self, webhook: Webhook) -> None:
        while self._waiting or not self._closing:
            while self._waiting:
                alert_id, body = self._waiting.popleft()
                self._in_post = True
                if await webhook.deliver(alert_id, body):
                    self._delivered += 1
                else:
                    self._given_up += 1
                self._in_post = False
            self._changed.clear()
            if not self._closing:
                await self._changed.wait()

    async def _give_up_rest(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CANCEL_WITHIN_S)
        if rest := len(self._waiting) + self._in_post:
            write_log(logging.ERROR, "alerts not posted, the server ends", alerts=rest)
            self._given_up += rest
            self._waiting.clear()
            self._in_post = False
        if self._webhook is not None:
            await self._webhook.close()
