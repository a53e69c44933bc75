"""Scrapes of a metrics endpoint, as Prometheus reads them."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What the endpoint answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(url: str, method: str = "GET") -> Answer:
    """url: with another path for what is not there."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, parts.path)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


class Scrape:
    """All samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = [sample for family in self.families.values() for sample in family.samples]
        self.names = {sample.name for sample in self._samples}

    def sum(self, name: str, **labels: str) -> float:
        """Of all samples of that name that have these labels. AssertionError when there is none."""
        values = [
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert values, f"{name} {labels} is not there"
        return sum(values)

    def buckets(self, name: str, **labels: str) -> dict[str, float]:
        """Cumulative counts by upper bound of a histogram with these labels."""
        return {
            sample.labels["le"]: sample.value
            for sample in self._samples
            if sample.name == f"{name}_bucket" and labels.items() <= sample.labels.items()
        }


def scrape(url: str) -> Scrape:
    answer = ask(url)
    assert answer.status == 200, answer
    return Scrape(answer.body.decode())
