"""Posts against a real HTTP receiver: what is tried again, when, and what is given up."""

import asyncio
import logging
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.alerts import Alerts
from service.webhook import MOST_RETRY_AFTER_S
from tests.service.webhook_receiver import (
    SECRET,
    Answer,
    Pauses,
    Receiver,
    address_of,
    alert,
    alerts_to,
    bound_socket,
    counts,
    listening,
    options,
    settled,
)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599, 408, 425, 429])
async def test_a_failure_that_may_pass_is_tried_again_with_the_same_id(
    receiver: Receiver, status: int
) -> None:
    receiver.answers.extend([Answer(status), Answer(status)])
    pauses = Pauses()
    async with alerts_to(options(receiver.address), pauses) as alerts:
        alerts.tell(alert())
        assert await settled(alerts) == counts(delivered=1, retried=2)
    assert receiver.ids() == ["alert-1"] * 3
    assert len({post.body for post in receiver.posts}) == 1
    assert pauses.taken_s == [1.0, 2.0]


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 410, 413, 422])
async def test_a_refusal_is_given_up_at_once(receiver: Receiver, status: int) -> None:
    receiver.answers.append(Answer(status))
    with capture_logs() as logs:
        async with alerts_to(options(receiver.address)) as alerts:
            alerts.tell(alert(1))
            alerts.tell(alert(2))
            assert await settled(alerts) == counts(delivered=1, given_up=1)
    assert receiver.ids() == ["alert-1", "alert-2"]
    (log,) = [log for log in logs if log["event"] == "alert not posted"]
    assert (log["alert_id"], log["failure"], log["attempts"]) == ("alert-1", f"status {status}", 1)


async def test_an_alert_is_given_up_after_its_attempts_and_the_next_one_has_all_of_its_own(
    receiver: Receiver,
) -> None:
    receiver.answers.extend([Answer(500)] * 5)
    pauses = Pauses()
    async with alerts_to(options(receiver.address, attempts=3), pauses) as alerts:
        alerts.tell(alert(1))
        alerts.tell(alert(2))
        assert await settled(alerts) == counts(delivered=1, given_up=1, retried=4)
    assert receiver.ids() == ["alert-1"] * 3 + ["alert-2"] * 3
    assert pauses.taken_s == [1.0, 2.0, 1.0, 2.0]


async def test_waits_are_drawn_from_a_bounded_range(receiver: Receiver) -> None:
    receiver.answers.extend([Answer(500)] * 9)
    draws = iter([0.0, 0.5, *[1.0] * 7])
    pauses = Pauses()
    alerts = Alerts(options(receiver.address, attempts=10), chance=lambda: next(draws), sleep=pauses)
    alerts.start()
    alerts.tell(alert())
    assert await settled(alerts) == counts(delivered=1, retried=9)
    assert pauses.taken_s == [0.0, 1.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("7", 7.0),
        ("0", 1.0),
        ("86400", MOST_RETRY_AFTER_S),
        ("Sat, 21 Nov 2026 03:04:15 GMT", 9.5),
        ("Sat, 21 Nov 2020 03:04:15 GMT", 1.0),
        ("soon", 1.0),
        ("-5", 1.0),
        ("Sat, 99 Nov 2026 03:04:15 GMT", 1.0),
    ],
)
async def test_retry_after_is_honoured(receiver: Receiver, text: str, wait_s: float) -> None:
    receiver.answers.append(Answer(429, {"Retry-After": text}))
    pauses = Pauses()
    async with alerts_to(options(receiver.address), pauses) as alerts:
        alerts.tell(alert())
        assert await settled(alerts) == counts(delivered=1, retried=1)
    assert pauses.taken_s == [wait_s]


async def test_an_endpoint_that_refuses_connections_is_tried_again() -> None:
    sock = bound_socket()
    receiver, opened = Receiver(), asyncio.Event()
    tried = asyncio.Event()

    async def pause(wait_s: float) -> None:
        tried.set()
        await opened.wait()

    alerts = Alerts(options(address_of(sock)), sleep=pause)
    alerts.start()
    alerts.tell(alert())
    await tried.wait()
    async with listening(receiver, on=sock):
        opened.set()
        assert await settled(alerts) == counts(delivered=1, retried=1)
    assert receiver.ids() == ["alert-1"]


async def test_a_post_without_an_answer_is_tried_again_after_its_time(receiver: Receiver) -> None:
    receiver.answers.append(Answer(None))
    async with alerts_to(options(receiver.address, timeout_s=0.2, attempts=50)) as alerts:
        alerts.tell(alert())
        snapshot = await settled(alerts)
    assert snapshot.delivered == 1
    assert snapshot.retried >= 1
    assert set(receiver.ids()) == {"alert-1"}


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    for status in (301, 302, 307, 308):
        receiver.answers.append(Answer(status, {"Location": f"{receiver.address}/elsewhere"}))
    async with alerts_to(options(receiver.address)) as alerts:
        for number in range(4):
            alerts.tell(alert(number))
        assert await settled(alerts) == counts(given_up=4)
    assert {post.line for post in receiver.posts} == {"POST /alerts HTTP/1.1"}
    assert len(receiver.posts) == 4


async def test_user_and_password_of_the_address_are_sent_as_basic_authentication(receiver: Receiver) -> None:
    async with alerts_to(options(receiver.address.replace("//", "//me:pw@"))) as alerts:
        alerts.tell(alert())
        assert await settled(alerts) == counts(delivered=1)
    assert receiver.posts[0].headers["authorization"] == "Basic bWU6cHc="
    assert "me" not in receiver.posts[0].headers["host"]


@pytest.mark.parametrize(
    "address", ["http://[::1", "http://\u2603.example", "http://127.0.0.1:1/", "https://127.0.0.1:1/"]
)
async def test_an_address_that_cannot_work_ends_nothing(address: str) -> None:
    async with alerts_to(options(address, attempts=2)) as alerts:
        alerts.tell(alert(1))
        alerts.tell(alert(2))
        assert (await settled(alerts)).given_up == 2


async def test_a_secret_that_cannot_be_encoded_ends_nothing(receiver: Receiver) -> None:
    async with alerts_to(options(receiver.address, secret="\udcff", attempts=1)) as alerts:
        alerts.tell(alert(1))
        alerts.tell(alert(2))
        assert await settled(alerts) == counts(given_up=2)


async def test_what_is_no_http_is_a_failure(receiver: Receiver) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    sock = bound_socket()
    server = await asyncio.start_server(babble, sock=sock)
    async with alerts_to(options(address_of(sock), attempts=2)) as alerts:
        alerts.tell(alert())
        assert await settled(alerts) == counts(given_up=1, retried=1)
    server.close()
    await server.wait_closed()


async def test_secrets_are_in_no_log(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers.extend([Answer(500), Answer(400), Answer(200)])
    given = options(receiver.address.replace("//", "//me:open-sesame@") + "/token-123?key=token-456")
    with capture_logs() as logs, caplog.at_level(logging.INFO):
        async with alerts_to(given) as alerts:
            alerts.tell(alert(1))
            alerts.tell(alert(2))
            await settled(alerts)
    written = f"{logs}{caplog.text}{given}"
    assert "alert not posted" in written
    assert len(receiver.posts) == 3
    for secret in (SECRET, "open-sesame", "token-123", "token-456"):
        assert secret not in written


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS with a certificate of its own making."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_certificate_that_nobody_vouches_for_is_refused(self_signed: ssl.SSLContext) -> None:
    async with listening(Receiver(), tls=self_signed) as receiver:
        with capture_logs() as logs:
            async with alerts_to(options(receiver.address, attempts=1)) as alerts:
                alerts.tell(alert())
                assert await settled(alerts) == counts(given_up=1)
        assert [log["failure"] for log in logs if "failure" in log] == ["ConnectError"]
    assert receiver.posts == []
