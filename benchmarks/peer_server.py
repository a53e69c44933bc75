"""Runs a peer's server under the conditions of ours. Executed by the peer's own Python.

Usage: python -m benchmarks.peer_server MODULE ARGUMENTS. Only the standard library may be imported here.
"""

import ctypes
import os
import runpy
import socketserver
import sys
from pathlib import Path

_CANDIDATES = ("libopenblas.so.0", "libopenblas.so")


def _load_blas() -> None:
    """As engine.mlx_worker.cpu_blas does, which cannot be imported here."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in _CANDIDATES if sys.platform.startswith("linux") else ():
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return


if __name__ == "__main__":
    _load_blas()
    # Python's default of 5 makes connections that come at once wait for seconds, or be reset.
    socketserver.TCPServer.request_queue_size = 1024
    # Our folders must not shadow the peer's modules.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path.cwd()]
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
