"""A training goes the same way whatever happens in between, and ends with the best epoch."""

import numpy as np
import pytest

from relearn.errors import ParamsError, StoreError, TrainingError
from relearn.finetuning import training as module
from relearn.finetuning.network import Result, TunableNetwork
from relearn.finetuning.progress import Epoch, Progress, read_progress, write_progress
from relearn.finetuning.training import Images, Training, plan_views

FLIPS = {"horizontal_flip": 0.5, "shift": 0.1}


@pytest.fixture
def tune(stripes, make, workspace):
    """Train, and return the network with what the training ended with."""

    def tune(folder="run", name="mini_vgg", augment=None, **changes):
        params = make.finetune(**changes)
        options = make.augment(**augment or {})
        n_views = plan_views(params, options)
        network = make.network(name, **changes)
        images = Images(stripes, n_views or 0, options)
        training = Training(network, images, params, n_views is None, workspace / folder)
        return network, training.run()

    return tune


def read_bytes(network):
    return b"".join(value.tobytes() for value in network.read_weights())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "augment", "views"),
    [("mini_vgg", FLIPS, 2), ("mobilenet_v2", FLIPS, None)],
)
def test_a_killed_training_goes_on_as_if_it_had_not_been(name, augment, views, tune, monkeypatch):
    class Kill(BaseException):
        pass

    wanted, first = tune("whole", name, augment, views=views)
    for n_epochs in (1, 2):

        def write(folder, progress, n_epochs=n_epochs):
            write_progress(folder, progress)
            if len(progress.history) == n_epochs:
                raise Kill

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_progress", write)
            with pytest.raises(Kill):
                tune("killed", name, augment, views=views)
    found, second = tune("killed", name, augment, views=views)
    assert len(second.history) == 3
    assert first.history == second.history
    assert read_bytes(found) == read_bytes(wanted)


@pytest.mark.slow
def test_the_loss_falls_and_features_get_better(tune):
    _, tuned = tune(epochs=8, learning_rate=1e-3)
    assert tuned.history[-1].training_loss < tuned.history[0].training_loss / 2
    assert tuned.tuned.log_loss < tuned.pretrained.log_loss
    assert tuned.best_epoch == min(tuned.history, key=lambda epoch: epoch.validation_loss).epoch


@pytest.mark.slow
def test_the_best_epoch_is_kept_and_patience_ends_it(tune, monkeypatch):
    losses = iter([0.5, 0.3, 0.4, 0.4])
    kept = []
    fit = module.fit_exact_head_below

    def fit_worse(*arguments):
        return fit(*arguments)._replace(log_loss=next(losses))

    def write(folder, progress):
        kept.append(progress)

    monkeypatch.setattr(module, "fit_exact_head_below", fit_worse)
    monkeypatch.setattr(module, "write_progress", write)
    network, tuned = tune(epochs=9, patience=2)
    assert [epoch.validation_loss for epoch in tuned.history] == [0.5, 0.3, 0.4, 0.4]
    assert tuned.best_epoch == 2
    assert all(map(np.array_equal, network.read_weights(), kept[1].best))
    assert not all(map(np.array_equal, kept[0].best, kept[1].best))


@pytest.mark.slow
def test_views_that_are_cached_are_those_that_are_fresh(tune, monkeypatch):
    """The same views of each epoch give the same training, but for the float16 of what is cached."""
    _, fresh = tune("fresh", augment=FLIPS, epochs=1, views=None)
    monkeypatch.setattr(module, "choose_view", lambda sha256, epoch, n_views: epoch)
    _, cached = tune("cached", augment=FLIPS, epochs=1, views=1)
    assert cached.history[0].training_loss == pytest.approx(fresh.history[0].training_loss, rel=1e-3)
    _, without = tune("without", epochs=1)
    assert without.history[0].training_loss != pytest.approx(fresh.history[0].training_loss, rel=1e-3)


@pytest.mark.slow
def test_what_is_below_runs_once(tune, monkeypatch):
    calls = []
    iterate = module.iterate_crossing
    monkeypatch.setattr(module, "iterate_crossing", lambda *a: calls.append(a) or iterate(*a))
    tune(epochs=2)
    assert calls == []
    tune("fresh", augment=FLIPS, epochs=2)
    assert len(calls) == 2


@pytest.mark.slow
def test_a_loss_that_is_not_finite_says_what_to_lower(tune, monkeypatch):
    monkeypatch.setattr(TunableNetwork, "train_batch", lambda *_: Result(float("nan"), 0.0))
    with pytest.raises(TrainingError, match=r"finetune.learning_rate: wanted a finite loss, got nan in epoch 1; lower"):
        tune()


@pytest.mark.slow
def test_no_room_for_the_activations_says_how_much(tune):
    with pytest.raises(StoreError, match=r"room for 0.000737 GB of activations below block3_conv1, got 0.0005 GB"):
        tune(activations_gb=0.0005)


def test_views_of_images_that_do_not_change_are_an_error(make):
    with pytest.raises(ParamsError, match="augment: wanted at least one option that is on, for 2 views"):
        plan_views(make.finetune(views=2), make.augment())
    assert plan_views(make.finetune(views=2), make.augment(**FLIPS)) == 2
    assert plan_views(make.finetune(), make.augment(**FLIPS)) is None
    assert plan_views(make.finetune(), make.augment()) == 0


def test_progress_is_read_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    history = [Epoch(number, *rng.random(8).tolist()) for number in (1, 2)]
    state = [rng.random((2, 3)).astype(np.float32), np.array([1, 2], np.uint32)] * 6
    written = Progress(history, state, [rng.random(4)])
    assert read_progress(tmp_path / "progress") is None
    write_progress(tmp_path / "progress", Progress(history[:1], state[:1], []))
    write_progress(tmp_path / "progress", written)
    found = read_progress(tmp_path / "progress")
    assert found.history == history
    for old, new in zip([*state, *written.best], [*found.state, *found.best], strict=True):
        assert old.dtype == new.dtype
        assert np.array_equal(old, new)
    assert len(found.best) == 1
