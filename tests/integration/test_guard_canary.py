"""A canary that gives first tokens 300 ms late is rolled back by itself, whatever the guard may do."""

import asyncio
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from penstock.v1 import feature_pb2 as feature
from penstock.v1.status_pb2 import Status
from tests.integration.admission_calls import fixed_limit
from tests.integration.guarded import INTERVAL_S, WITHIN_PERIODS, callers, deeds, guarded, later
from tests.integration.processes import running_server
from tests.integration.slow_canary_server import DELAY_S, SLOW_CANARY
from tests.service.calls import endless, generate
from tests.service.eventually import eventually
from tests.service.scrapes import scrape
from tests.service.servers import Stubs, stubs_of
from tests.service.webhook_receiver import SECRET, Post, Receiver, listening

CALLERS = 8
TTFT_P95_MS = 250.0
OPTIONS = {
    "FEATURES__PREFIX_CACHE__ENABLED": "false",
    "FEATURES__PREFIX_CACHE__CANARY_PERCENT": "50",
    "FEATURES__MIN_SAMPLES": "10",
    "SLO__TTFT_P95_MS": str(TTFT_P95_MS),
    "ALERTS__WEBHOOK_SECRET": SECRET,
    # Breaches are told by another test.
    "ALERTS__SUSTAINED_MS": "3600000",
}


def canary(status: Status) -> feature.Feature:
    return next(one for one in status.features if one.name == "prefix_cache")


def alert(post: Post) -> dict[str, Any]:
    """What a post says. AssertionError when its signature is not that of its body."""
    at, given = (part.partition("=")[2] for part in post.headers["x-penstock-signature"].split(","))
    signed = f"{at}.".encode() + post.body
    assert given == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    content: dict[str, Any] = json.loads(post.body)
    return content


async def streams_of_canary(url: str) -> float:
    return (await asyncio.to_thread(scrape, url)).sum("penstock_streams_ended_total", arm="canary")


async def rolled_back(stubs: Stubs) -> Status:
    """The status after the roll-back, while callers go on."""
    before = await stubs.status()
    assert canary(before).state == feature.FEATURE_STATE_CANARY
    async with callers(stubs) as calls:
        calls.begin(CALLERS, lambda: endless(3))
        after = await eventually(
            stubs.status, lambda status: canary(status).state != feature.FEATURE_STATE_CANARY
        )
        # No more of its streams than callers can have in that time, however slow the machine is.
        most = CALLERS * (WITHIN_PERIODS * INTERVAL_S / DELAY_S)
        assert canary(after).comparison.canary.streams <= most
        # After it has had its effect.
        after = await later(stubs, 2)
    assert not calls.refused
    return after


@pytest.mark.parametrize("mode", ["act", "dry_run", "off"])
async def test_it_is_rolled_back(tmp_path: Path, mode: str) -> None:
    async with listening(Receiver()) as receiver:
        options = guarded(mode, **fixed_limit(32), **OPTIONS, ALERTS__WEBHOOK_URL=receiver.address)
        with running_server(tmp_path / "stderr", options, **SLOW_CANARY) as server:
            url = server.wait_metrics()
            async with stubs_of(server.address) as stubs:
                status = await rolled_back(stubs)
                tried = await streams_of_canary(url)
                for number in range(16):
                    await generate(stubs.generation, endless(2, request_id=f"later-{number}"))
                assert await streams_of_canary(url) == tried
        # The server has ended: what it had to tell is told.
        (told,) = [alert(post) for post in receiver.posts]
    found = canary(status)
    assert found.state == feature.FEATURE_STATE_ROLLED_BACK
    assert "worse: time to first token p50" in found.reason
    assert found.comparison.canary.ttft_p50_ms >= DELAY_S * 1e3
    assert found.comparison.control.ttft_p95_ms <= TTFT_P95_MS
    assert found.comparison.control.failed == found.comparison.canary.failed == 0
    (objective,) = status.service_levels.objectives
    assert objective.fast <= TTFT_P95_MS
    assert (told["kind"], told["subject"]) == ("action", "ROLL_BACK_FEATURE")
    assert "prefix_cache" in told["text"]
    assert found.reason in told["details"]["cause"]
    if mode == "off":
        assert not status.HasField("remediation")
    else:
        done = [(deed.what, deed.outcome, deed.dry_run) for deed in deeds(status)]
        assert done == [("ROLL_BACK_FEATURE prefix_cache", "TAKEN", False)] * (mode == "act")
