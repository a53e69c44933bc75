"""Loads an optimised BLAS before MLX on Linux.

The CPU wheel of MLX carries the reference BLAS. Symbols of a library that is loaded globally before
it are found first, so a plain OpenBLAS takes its place. Must run before the first import of mlx.
"""

import ctypes
import os
import sys

NONE = "none"
AUTO = "auto"
_CANDIDATES = ("libopenblas.so.0", "libopenblas.so")


class BlasError(RuntimeError):
    """The library that was asked for cannot be used."""


def load_cpu_blas(choice: str) -> str:
    """Load the BLAS that `choice` names and return its name, or "" when MLX's own stays in use.

    choice: "none"; "auto" for an OpenBLAS where there is one; or the path of a library, for which
    BlasError is raised when it cannot be loaded.
    """
    if "mlx.core" in sys.modules:
        raise BlasError("mlx is imported already, a BLAS loaded now would not be used")
    if choice == NONE or not sys.platform.startswith("linux"):
        return ""
    # One thread: the products of a decode step are too small to share out.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in _CANDIDATES if choice == AUTO else (choice,):
        try:
            library = ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            if choice != AUTO:
                raise BlasError(f"engine.cpu_blas: cannot load {choice}: {error}") from error
            continue
        if hasattr(library, "cblas_sgemm"):
            return name
        if choice != AUTO:
            raise BlasError(f"engine.cpu_blas: {choice} has no cblas_sgemm, so MLX would not use it")
    return ""
