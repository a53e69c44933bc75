"""The HTTP endpoint that Prometheus scrapes: GET /metrics and nothing else."""

import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from service.telemetry.collection import Collection, NoReadingError

PATH = "/metrics"
# How long a connection may stay silent, and how many there may be at the same time.
_SILENCE_S = 10.0
_MAX_CONNECTIONS = 32
# How soon the serving thread notices that it is to end.
_POLL_S = 0.1


class MetricsEndpoint:
    """Owns its port and its threads from `open` to `close`. A slow client holds up no other one."""

    def __init__(self, collection: Collection, registry: CollectorRegistry) -> None:
        """registry: what a scrape shows; read within Collection.taking, one scrape at a time."""
        self._collection = collection
        self._scrape = make_wsgi_app(registry)
        self._scraping = threading.Lock()
        self._server: WSGIServer | None = None

    def open(self, host: str, port: int) -> str:
        """Listen. port: 0 for any free one. Returns HOST:PORT. Raises OSError."""
        shown = f"[{host}]" if ":" in host else host
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            server_class = type("_Server", (_Server,), {"address_family": family})
            self._server = make_server(host, port, self._answer, server_class, _Handler)
        except OSError as error:
            raise OSError(f"cannot listen on {shown}:{port}: {error.strerror}") from error
        threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics endpoint", daemon=True
        ).start()
        return f"{shown}:{self._server.server_port}"

    def close(self) -> None:
        """Blocks until no more connections are taken; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return _text(start, "404 Not Found", f"there is only {PATH}")
        if environ["REQUEST_METHOD"] != "GET":
            answer = _text(start, "405 Method Not Allowed", "only GET is allowed", ("Allow", "GET"))
            return [] if environ["REQUEST_METHOD"] == "HEAD" else answer
        try:
            # Serving the answer is not within the lock, so a slow reader keeps nobody waiting.
            with self._scraping, self._collection.taking():
                return list(self._scrape(environ, start))
        except NoReadingError as error:
            return _text(start, "503 Service Unavailable", str(error))


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, up to a bound; beyond it connections are closed at once."""

    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(*args)

    def server_bind(self) -> None:
        # WSGIServer's own looks its name up, which may ask a name server.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or says nothing is no error of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not logged."""


def _text(start: Callable[..., Any], status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{text}\n".encode()]
