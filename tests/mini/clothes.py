"""Mark of tests that need the files of Fashion-MNIST; everything else runs without them."""

import pytest

from qdit.core.errors import DataError
from qdit.mini.data.fashion_mnist import find_folder


def has_data() -> bool:
    """Whether the four files are there."""
    try:
        find_folder()
    except DataError:
        return False
    return True


WITH_DATA = pytest.mark.skipif(not has_data(), reason="needs Fashion-MNIST: qdit data fashion-mnist")
