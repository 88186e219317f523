"""What a step is follows from its number."""

from collections import Counter

import numpy as np
import pytest

from relearn.finetuning.schedule import choose_view, compute_rate, order_images, scale_rates


def test_the_rate_rises_and_falls():
    rates = [compute_rate(step, 10, 4) for step in range(10)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert np.all(np.diff(rates[4:]) < 0)
    assert rates[7] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.1


def test_without_warm_up_the_first_rate_is_the_highest():
    assert compute_rate(0, 10, 0) == 1.0


def test_a_warm_up_as_long_as_the_training_divides_by_nothing():
    assert [compute_rate(step, 2, 2) for step in range(2)] == [0.5, 1.0]


def test_each_epoch_has_its_own_order():
    orders = [order_images(50, seed, epoch) for seed in (0, 1) for epoch in (1, 2)]
    assert len({order.tobytes() for order in orders}) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert order_images(50, 0, 2).tobytes() == orders[1].tobytes()


def test_an_image_shows_each_of_its_views_in_turn():
    sha256 = "0000000a" + 56 * "0"
    assert [choose_view(sha256, epoch, 2) for epoch in range(6)] == [1, 2, 0, 1, 2, 0]
    assert choose_view(sha256, 5, 0) == 0


def test_an_epoch_has_about_as_many_of_each_view():
    hashes = [f"{n:08x}" + 56 * "0" for n in np.random.default_rng(0).integers(0, 2**32, 3000)]
    counts = Counter(choose_view(sha256, 7, 2) for sha256 in hashes)
    assert min(counts.values()) > 900


def test_rates_fall_by_a_factor_a_block(make):
    params = make.finetune(learning_rate=1e-4, head_learning_rate=1e-3, layer_decay=0.5)
    rates = scale_rates({"top": 0, "below": 1, "bottom": 3}, params)
    assert rates == pytest.approx({"top": 0.1, "below": 0.05, "bottom": 0.0125})
