"""Names of the backends that compute the simulated mode. Every result row records them."""

from qdit.kernels import dense, library


def backend() -> str:
    """Return the names of the backends for float32 linears and for quantizers, such as `onednn + avx512-vnni`."""
    return f"{dense.backend()} + {library.backend().name}"
