"""Posts alerts to an address: signed, and again after failures that may pass."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx2
import structlog

from engine.backoff import backoff_s
from service.options import AlertOptions

FIRST_WAIT_S = 1.0
MOST_WAIT_S = 60.0
MOST_RETRY_AFTER_S = 900.0
"""An endpoint that asks for more time gets this much: newer alerts wait behind the one that is put off."""

# Answers of the 4xx kind after which the same post may succeed: timeout, too early, too many requests.
_PASSING = frozenset({408, 425, 429})
_HOPELESS = (httpx2.InvalidURL, httpx2.UnsupportedProtocol)

_log = structlog.get_logger("penstock.alerts")
# It logs the whole address of each request at level info, and an address may hold secrets.
logging.getLogger("httpx2").setLevel(logging.WARNING)


def write_log(level: int, event: str, **values: object) -> None:
    """Log as penstock.alerts. A log that cannot be written (a closed pipe, a full disk) is not an error."""
    with contextlib.suppress(OSError, ValueError):
        _log.log(level, event, **values)


def signature(secret: str, body: bytes, at_s: int) -> str:
    """The value of the header X-Penstock-Signature for a body posted at at_s, seconds since 1970.

    The scheme is that of Stripe's webhooks (https://docs.stripe.com/webhooks, "Verify webhook signatures
    manually"): HMAC-SHA256 over "<t>.<body>". The signed time lets a receiver refuse old posts.
    """
    signed = f"{at_s}.".encode() + body
    return f"t={at_s},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """How one post went. failure: what went wrong, without the address; empty when it was delivered."""

    failure: str
    may_pass: bool = False
    retry_after_s: float = 0.0


class Webhook:
    """Delivers one body at a time. Owns its connections from `__init__` to `close`."""

    def __init__(
        self,
        options: AlertOptions,
        *,
        chance: Callable[[], float],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """chance: draws from [0, 1). clock: seconds since 1970. sleep: waits so many seconds."""
        self._options = options
        self._chance = chance
        self._clock = clock
        self._sleep = sleep
        # Each post is timed as a whole: the client's own timeouts begin anew with every byte.
        self._client = httpx2.AsyncClient(timeout=None, follow_redirects=False)
        self.retried = 0
        """Posts that were not the first of their alert."""

    async def deliver(self, alert_id: str, body: bytes) -> bool:
        """Post until it is accepted; False when it is given up. Raises nothing but CancelledError.

        The wait doubles with each failure and is drawn from zero up to that ("full jitter": M. Brooker,
        Exponential Backoff and Jitter, 2015), but is never shorter than the Retry-After of the answer.
        """
        for attempt in range(1, self._options.max_attempts + 1):
            self.retried += attempt > 1
            answer = await self._post(alert_id, body)
            if not answer.failure:
                return True
            if not answer.may_pass:
                break
            if attempt < self._options.max_attempts:
                most_s = backoff_s(attempt, initial_s=FIRST_WAIT_S, max_s=MOST_WAIT_S)
                wait_s = max(self._chance() * most_s, answer.retry_after_s)
                event = "alert not posted yet"
                write_log(logging.INFO, event, alert_id=alert_id, failure=answer.failure, wait_s=wait_s)
                await self._sleep(wait_s)
        write_log(
            logging.ERROR, "alert not posted", alert_id=alert_id, failure=answer.failure, attempts=attempt
        )
        return False

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, alert_id: str, body: bytes) -> _Answer:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "penstock",
            "X-Penstock-Alert-Id": alert_id,
        }
        try:
            if secret := self._options.webhook_secret:
                headers["X-Penstock-Signature"] = signature(secret, body, int(self._clock()))
            async with asyncio.timeout(self._options.timeout_s):
                # Nothing of the answer's body is read: it says nothing to us and may be endless.
                async with self._client.stream(
                    "POST", self._options.webhook_url, content=body, headers=headers
                ) as response:
                    return self._judge(response)
        except TimeoutError:
            return _Answer("no answer in time", may_pass=True)
        # Whatever an endpoint does, it must not end the delivery of later alerts. The error's own text
        # is left out: it may hold the address.
        except Exception as error:
            return _Answer(type(error).__name__, may_pass=not isinstance(error, _HOPELESS))

    def _judge(self, response: httpx2.Response) -> _Answer:
        status = response.status_code
        if 200 <= status < 300:
            return _Answer("")
        may_pass = status >= 500 or status in _PASSING
        return _Answer(f"status {status}", may_pass, self._retry_after_s(response.headers.get("Retry-After")))

    def _retry_after_s(self, text: str | None) -> float:
        """Seconds from now (RFC 9110, 10.2.3: seconds or a date); 0 where there is none that makes sense."""
        if text is None:
            return 0.0
        try:
            if text.isdecimal():
                wait_s = float(text)
            else:
                wait_s = parsedate_to_datetime(text).timestamp() - self._clock()
        except (ValueError, OverflowError):
            return 0.0
        return min(max(wait_s, 0.0), MOST_RETRY_AFTER_S)
