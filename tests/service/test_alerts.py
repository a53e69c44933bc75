"""Alerts and a real HTTP receiver: their order, their bounds, and what nobody waits for."""

import asyncio

import structlog
from structlog.testing import capture_logs

from config import load
from service.alerts import Alerts
from service.assembly_options import alert_options
from service.options import AlertOptions
from tests.service.webhook_receiver import (
    Answer,
    Receiver,
    alert,
    alerts_to,
    counts,
    options,
    settled,
)


async def test_alerts_come_in_the_order_in_which_they_were_told(receiver: Receiver) -> None:
    receiver.answers.extend([Answer(), Answer(500), Answer(400), Answer(503), Answer(503)])
    async with alerts_to(options(receiver.address)) as alerts:
        for number in range(20):
            alerts.tell(alert(number))
        assert await settled(alerts) == counts(delivered=19, given_up=1, retried=3)
    seen = list(dict.fromkeys(receiver.ids()))
    assert seen == [f"alert-{number}" for number in range(20)]


async def test_a_full_queue_drops_the_oldest(receiver: Receiver) -> None:
    receiver.answers.append(Answer(None))
    async with alerts_to(options(receiver.address, queue_size=3)) as alerts:
        alerts.tell(alert(0))
        await receiver.wait_posts(1)
        for number in range(1, 6):
            alerts.tell(alert(number))
        assert alerts.snapshot() == counts(dropped=2, waiting=4)
        await receiver.end()  # The connection breaks: the first one is tried again.
        assert await settled(alerts) == counts(delivered=4, retried=1, dropped=2)
    assert receiver.ids() == [f"alert-{number}" for number in (0, 0, 3, 4, 5)]


async def test_an_endpoint_that_hangs_holds_up_neither_tell_nor_close(receiver: Receiver) -> None:
    receiver.answers.append(Answer(None))
    alerts = Alerts(options(receiver.address, timeout_s=3600.0))
    alerts.start()
    for number in range(3):
        alerts.tell(alert(number))
    await receiver.wait_posts(1)
    assert alerts.snapshot() == counts(waiting=3)
    with capture_logs() as logs:
        async with asyncio.timeout(60):
            await alerts.close(0.01)
    assert alerts.snapshot() == counts(given_up=3)
    assert [log["alerts"] for log in logs] == [3]
    assert receiver.ids() == ["alert-0"]


async def test_a_wait_for_the_next_try_does_not_hold_up_close(receiver: Receiver) -> None:
    receiver.answers.append(Answer(429, {"Retry-After": "600"}))
    alerts = Alerts(options(receiver.address))
    alerts.start()
    alerts.tell(alert())
    await receiver.wait_posts(1)
    async with asyncio.timeout(60):
        await alerts.close(0.01)
    assert alerts.snapshot() == counts(given_up=1)


async def test_close_posts_what_waits_and_after_it_nothing_is_posted(receiver: Receiver) -> None:
    alerts = Alerts(options(receiver.address))
    alerts.tell(alert(0))
    assert alerts.snapshot() == counts(waiting=1)
    alerts.start()
    alerts.start()
    alerts.tell(alert(1))
    await alerts.close(60)
    assert alerts.snapshot() == counts(delivered=2)
    alerts.tell(alert(2))
    alerts.start()
    await alerts.close()
    assert alerts.snapshot() == counts(delivered=2, dropped=1)
    assert receiver.ids() == ["alert-0", "alert-1"]


async def test_alerts_that_were_never_started_are_given_up_at_close(receiver: Receiver) -> None:
    alerts = Alerts(options(receiver.address))
    alerts.tell(alert())
    await alerts.close()
    assert alerts.snapshot() == counts(given_up=1)


async def test_without_an_address_alerts_are_logged_only() -> None:
    with capture_logs() as logs:
        async with alerts_to(options("")) as alerts:
            alerts.tell(alert(lasted_s=30))
            assert await settled(alerts) == counts()
    assert logs == [
        {
            "event": "alert",
            "log_level": "warning",
            "alert_id": "alert-1",
            "kind": "breach",
            "severity": "warning",
            "subject": "ttft_p95",
            "text": "The 95th percentile of the time to first token is above its objective.",
            "details": {"lasted_s": 30},
        }
    ]


class FullDisk:
    """A log that cannot be written."""

    def __call__(self, logger: object, name: str, event: object) -> str:
        raise OSError("No space left on device")


async def test_a_log_that_cannot_be_written_keeps_no_alert_back(receiver: Receiver) -> None:
    receiver.answers.extend([Answer(500), Answer(400)])
    before = structlog.get_config()
    structlog.configure(processors=[FullDisk()])
    try:
        async with alerts_to(options(receiver.address)) as alerts:
            alerts.tell(alert(1))
            alerts.tell(alert(2))
            assert await settled(alerts) == counts(delivered=1, given_up=1, retried=1)
    finally:
        structlog.configure(**before)


def test_the_options_come_from_the_configuration() -> None:
    flags = {"alerts": {"webhook_url": "https://host/", "webhook_secret": "s", "timeout_ms": 1500}}
    assert alert_options(load(None, None, {}, flags).settings) == AlertOptions(
        webhook_url="https://host/",
        webhook_secret="s",
        timeout_s=1.5,
        max_attempts=6,
        queue_size=1000,
        sustained_s=30.0,
    )
