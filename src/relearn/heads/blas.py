"""BLAS held to one thread, so that a fit can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hold_blas() -> Iterator[None]:
    """Hold BLAS to one thread: with two it adds in another order, and the last bits of a model change."""
    # Both bring a BLAS of their own, and only what is loaded can be held to one thread.
    import scipy.linalg  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
