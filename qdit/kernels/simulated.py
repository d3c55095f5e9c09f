"""Name of the backends that compute the simulated mode; every result row records it."""

from qdit.kernels import dense, library


def backend() -> str:
    """Of the float32 linears and of the quantizers, such as `onednn + avx512-vnni`."""
    return f"{dense.backend()} + {library.backend().name}"
