"""What an alert looks like when it arrives, and how a receiver knows that it is genuine."""

import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.alert import Alert, AlertKind, AlertServer, Severity
from service.alerts import Alerts
from service.webhook import signature
from tests.service.webhook_receiver import (
    NOW_S,
    SECRET,
    Receiver,
    alert,
    alerts_to,
    counts,
    options,
    settled,
)

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text(encoding="utf-8")


def verification() -> Callable[..., bool]:
    """The example of docs/alerts.md."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    verify: Callable[..., bool] = names["is_from_penstock"]
    return verify


async def test_a_post_is_signed_and_holds_the_alert(receiver: Receiver) -> None:
    async with alerts_to(options(receiver.address)) as alerts:
        alerts.tell(alert(burn_rate=14.4, objective="ttft_p95", worst=math.inf))
        assert await settled(alerts) == counts(delivered=1)
    (post,) = receiver.posts
    assert post.line == "POST /alerts HTTP/1.1"
    assert post.headers["content-type"] == "application/json"
    assert post.headers["x-penstock-alert-id"] == "alert-1"
    assert post.headers["x-penstock-signature"] == signature(SECRET, post.body, int(NOW_S))
    assert json.loads(post.body) == {
        "id": "alert-1",
        "at": "2026-11-21T03:04:05.000Z",
        "kind": "breach",
        "severity": "warning",
        "subject": "ttft_p95",
        "text": "The 95th percentile of the time to first token is above its objective.",
        "details": {"burn_rate": 14.4, "objective": "ttft_p95", "worst": None},
        "server": {"address": "127.0.0.1:50051", "version": "0.1.0"},
    }


async def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    async with alerts_to(options(receiver.address, secret="")) as alerts:
        alerts.tell(alert())
        await settled(alerts)
    assert "x-penstock-signature" not in receiver.posts[0].headers


async def test_the_example_of_the_page_verifies_a_post_and_nothing_else(receiver: Receiver) -> None:
    alerts = Alerts(options(receiver.address))
    alerts.start()
    alerts.tell(alert())
    await settled(alerts)
    (post,) = receiver.posts
    verify, signed = verification(), post.headers["x-penstock-signature"]
    assert verify(SECRET, signed, post.body)
    assert not verify("another", signed, post.body)
    assert not verify(SECRET, signed, post.body + b" ")
    assert not verify(SECRET, signed.replace("t=", "t=1"), post.body)
    old = signature(SECRET, post.body, int(time.time()) - 301)
    assert not verify(SECRET, old, post.body)
    assert verify(SECRET, old, post.body, max_age_s=3600)
    for nonsense in ("", "t=,v1=", "v1=é", "t=x", ",,==", f"v0={signed}"):
        assert not verify(SECRET, nonsense, post.body)


def test_the_signed_example_of_the_page_is_right() -> None:
    (body,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    content = json.loads(body)
    assert list(content) == list(json.loads(alert().body()))
    ours = Alert(
        id=content["id"],
        at=alert().at,
        kind=AlertKind(content["kind"]),
        severity=Severity(content["severity"]),
        subject=content["subject"],
        text=content["text"],
        details=content["details"],
        server=AlertServer(**content["server"]),
    )
    assert json.loads(ours.body()) == content
    assert signature("correct-horse", ours.body(), 1795230245) in PAGE


def test_the_page_names_every_kind() -> None:
    for kind in AlertKind:
        assert f"\n| `{kind.value}` | " in PAGE


def test_each_alert_of_now_has_an_id_of_its_own() -> None:
    server = AlertServer("127.0.0.1:1", "0.1.0")
    made = [Alert.now(AlertKind.ACTION, Severity.INFO, "pin", "Pinned.", {}, server) for _ in range(3)]
    assert len({each.id for each in made}) == 3
    assert {json.loads(each.body())["at"][-1] for each in made} == {"Z"}
