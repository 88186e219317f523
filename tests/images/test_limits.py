import pytest

from relearn.images import limits
from relearn.images.limits import MAX_PIXELS, count_scans_read


@pytest.mark.parametrize(("n_pixels", "n_scans"), [(1, 100), (MAX_PIXELS // 5, 100), (MAX_PIXELS, 20)])
def test_scans_are_fewer_in_large_images(n_pixels, n_scans):
    assert count_scans_read(n_pixels) == n_scans


def test_a_size_beyond_the_limit_counts_as_the_limit():
    """A header may promise any size; it must not allow no scan at all before the size is refused."""
    assert count_scans_read(1000 * MAX_PIXELS) == count_scans_read(MAX_PIXELS)


def test_large_images_are_within_the_limit():
    assert limits.LARGE_PIXELS < limits.MAX_PIXELS
