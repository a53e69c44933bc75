"""Entry of a worker process: `python -m engine.mlx_worker FD`, FD being its connected socket."""

import signal
import socket
import sys

from engine.mlx_worker.cpu_blas import BlasError, load_cpu_blas
from engine.model_source import NoSuchModelError, resolve
from engine.wire import Configure, StartFailed, encode_messages, read_command


def main() -> int:
    # Ctrl-C in a terminal reaches every process of the group; the service decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    source = connection.makefile("rb")
    first = read_command(source)
    if not isinstance(first, Configure):
        return 0  # The service went away before it said anything.
    options = first.options
    try:
        resolve(options.model)  # A mistyped name is told before the imports below, which take seconds.
        cpu_blas = load_cpu_blas(options.cpu_blas)
    except (NoSuchModelError, BlasError) as error:
        text = str(error)
        if isinstance(error, NoSuchModelError):
            text = f"cannot load the model {options.model}: {text}"
        connection.sendall(encode_messages([StartFailed(text)]))
        return 1
    # Only now, because this imports mlx.
    from engine.mlx_worker.worker import Worker

    return Worker(connection, source, options, cpu_blas).run()


if __name__ == "__main__":
    sys.exit(main())
