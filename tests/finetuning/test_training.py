"""A training goes the same way whatever happens in between, and ends with the best epoch."""

import errno
import os
import resource

import numpy as np
import pytest

from finetuning.conftest import FLIPS, read_weights
from relearn.errors import ParamsError, StoreError, TrainingError
from relearn.finetuning import training as module
from relearn.finetuning.network import Result, TunableNetwork
from relearn.finetuning.progress import Epoch, Limits, Progress, read_progress, write_progress
from relearn.finetuning.training import Training, plan_views


class Kill(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "views", "moments"),
    [("mini_vgg", 2, [(0, 1), (0, 5), (1, 0), (2, 4), (3, 0)]), ("mobilenet_v2", None, [(1, 2)])],
)
def test_a_killed_training_goes_on_as_if_it_had_not_been(name, views, moments, tune, monkeypatch):
    """Killed after `moments` of epochs and steps; an epoch has 5 steps."""
    wanted, first, _ = tune("whole", name, FLIPS, views=views)
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    for moment in moments:

        def write(path, progress, moment=moment):
            write_progress(path, progress)
            if (len(progress.history), progress.n_steps) == moment:
                raise Kill

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_progress", write)
            with pytest.raises(Kill):
                tune("killed", name, FLIPS, views=views)
    found, second, _ = tune("killed", name, FLIPS, views=views)
    assert len(second.history) == 3
    assert first.history == second.history
    assert read_weights(found) == read_weights(wanted)


@pytest.mark.slow
def test_what_an_epoch_has_seen_is_not_decoded_again(tune, monkeypatch):
    def write(path, progress):
        write_progress(path, progress)
        if progress.n_steps == 3:
            raise Kill

    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_progress", write)
        with pytest.raises(Kill):
            tune(augment=FLIPS, epochs=1)
    n_inputs = []
    iterate = module.iterate_crossing
    monkeypatch.setattr(module, "iterate_crossing", lambda *a: n_inputs.append(len(a[1])) or iterate(*a))
    tune(augment=FLIPS, epochs=1)
    assert n_inputs == [36 - 3 * 8]


@pytest.mark.slow
def test_the_loss_falls_and_features_get_better(tune):
    _, tuned, _ = tune(epochs=8, learning_rate=1e-3)
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
    network, tuned, _ = tune(epochs=9, patience=2)
    assert [epoch.validation_loss for epoch in tuned.history] == [0.5, 0.3, 0.4, 0.4]
    assert tuned.best_epoch == 2
    assert all(map(np.array_equal, network.read_weights(), kept[1].best))
    assert not all(map(np.array_equal, kept[0].best, kept[1].best))


@pytest.mark.slow
def test_views_that_are_cached_are_those_that_are_fresh(tune, monkeypatch):
    """The same views of each epoch give the same training, but for the float16 of what is cached."""
    _, fresh, _ = tune("fresh", augment=FLIPS, epochs=1, views=None)
    monkeypatch.setattr(module, "choose_view", lambda sha256, epoch, n_views: epoch)
    _, cached, _ = tune("cached", augment=FLIPS, epochs=1, views=1)
    assert cached.history[0].training_loss == pytest.approx(fresh.history[0].training_loss, rel=1e-3)
    _, without, _ = tune("without", epochs=1)
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
def test_features_of_the_last_epoch_are_computed_once(tune, monkeypatch):
    """If it is the best; only a training that was killed after it computes them again, and ends with the same head."""
    calls = []
    compute = Training._compute_splits
    monkeypatch.setattr(Training, "_compute_splits", lambda self: calls.append(self) or compute(self))
    _, first, _ = tune(epochs=2, learning_rate=1e-4)
    assert first.best_epoch == 2
    assert len(calls) == 3
    _, second, _ = tune(epochs=2, learning_rate=1e-4)
    assert len(calls) == 5
    assert second.tuned.log_loss == first.tuned.log_loss
    assert np.array_equal(second.tuned.right, first.tuned.right)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_says_what_to_lower(tune, monkeypatch):
    monkeypatch.setattr(TunableNetwork, "train_batch", lambda *_: Result(float("nan"), 0.0))
    with pytest.raises(TrainingError, match=r"finetune.learning_rate: wanted a finite loss, got nan in epoch 1; lower"):
        tune()


@pytest.mark.slow
def test_a_head_that_is_not_finite_after_its_last_step_says_so_too(tune, monkeypatch):
    monkeypatch.setattr(TunableNetwork, "compute_logits", lambda self, features: np.full((len(features), 3), np.nan))
    with pytest.raises(TrainingError, match=r"finetune.learning_rate: wanted a finite loss, got nan in epoch 1; lower"):
        tune()


@pytest.mark.slow
def test_no_room_for_the_activations_says_how_much(tune):
    with pytest.raises(StoreError, match=r"room for 0.000737 GB of activations below block3_conv1, got 0.0005 GB"):
        tune(activations_gb=0.0005)


@pytest.mark.slow
def test_a_disk_that_is_full_meanwhile_is_an_error(tune, workspace, monkeypatch):
    def fail(descriptor, start, n_bytes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*/run/activations'"):
        tune()
    assert not (workspace / "run" / "activations").exists()


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [0, 50, 2000])
def test_damaged_activations_are_computed_again(n_bytes, tune, workspace, monkeypatch, caplog):
    monkeypatch.setattr(Training, "run", lambda self, progress: self._activations.read([0, 7]))
    _, (wanted,), _ = tune()
    path = workspace / "run" / "activations" / "0.npy"
    path.write_bytes(path.read_bytes()[:n_bytes])
    _, (found,), _ = tune()
    assert np.array_equal(found, wanted)
    (said,) = caplog.messages
    assert said.startswith(f"finetune: {path.parent} is damaged, so it is computed again: ")


def test_views_of_images_that_do_not_change_are_an_error(make):
    with pytest.raises(ParamsError, match="augment: wanted at least one option that is on, for 2 views"):
        plan_views(make.finetune(views=2), make.augment())
    assert plan_views(make.finetune(views=2), make.augment(**FLIPS)) == 2
    assert plan_views(make.finetune(), make.augment(**FLIPS)) is None
    assert plan_views(make.finetune(), make.augment()) == 0


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    history = [Epoch(number, *rng.random(8).tolist()) for number in (1, 2)]
    state = [rng.random((2, 3)).astype(np.float32), np.array([1, 2], np.uint32)] * 6
    written = Progress(Limits(8, 16, True), history, state, [rng.random(4)], 7, (rng.random(), 3.0))
    write_progress(tmp_path / "progress", Progress(Limits(16, 16, True), history[:1], state[:1], []))
    write_progress(tmp_path / "progress", written)
    return written


def test_progress_is_read_as_it_was_written(tmp_path, written):
    assert read_progress(tmp_path / "nothing") is None
    found = read_progress(tmp_path / "progress")
    assert found._replace(state=[], best=[]) == written._replace(state=[], best=[])
    for old, new in zip([*written.state, *written.best], [*found.state, *found.best], strict=True):
        assert old.dtype == new.dtype
        assert np.array_equal(old, new)
    assert len(found.best) == 1


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-100], lambda c: c[:20], lambda c: b"", lambda c: c[:900] + b"xx" + c[902:]]
)
def test_damaged_progress_is_logged_and_not_used(damage, tmp_path, written, caplog):
    path = tmp_path / "progress"
    path.write_bytes(damage(path.read_bytes()))
    assert read_progress(path) is None
    assert caplog.messages == [f"finetune: {path} is damaged, so the training begins at its first epoch"]


def test_a_full_disk_leaves_the_progress_before(tmp_path, written):
    """As of a disk with no room for a file as large as this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="progress"):
            write_progress(tmp_path / "progress", written._replace(n_steps=8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_progress(tmp_path / "progress").n_steps == 7
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]
