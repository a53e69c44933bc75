"""Entry of a worker process: `python -m engine.mlx_worker FD`, FD being its connected socket."""

import signal
import socket
import sys

from engine.mlx_worker.cpu_blas import BlasError, load_cpu_blas
from engine.wire import Configure, StartFailed, encode_messages, read_command


def main() -> int:
    # Ctrl-C in a terminal reaches every process of the group; the service decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    source = connection.makefile("rb")
    first = read_command(source)
    if not isinstance(first, Configure):
        return 0  # The service went away before it said anything.
    try:
        cpu_blas = load_cpu_blas(first.options.cpu_blas)
    except BlasError as error:
        connection.sendall(encode_messages([StartFailed(str(error))]))
        return 1
    # Only now, because this imports mlx.
    from engine.mlx_worker.worker import Worker

    return Worker(connection, source, first.options, cpu_blas).run()


if __name__ == "__main__":
    sys.exit(main())
