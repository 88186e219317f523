"""A training does with what the machine has, and leaves nothing behind."""

import fcntl
import os
import shutil
import time

import pytest

from finetuning.conftest import PARAMS, read_weights
from relearn.errors import Locked, NetworkError, TrainingError
from relearn.finetuning import training as module
from relearn.finetuning.progress import Limits, Progress, read_progress, write_progress
from relearn.finetuning.tuning import hold_training, remove_abandoned, tune_network


@pytest.fixture
def refuse(monkeypatch):
    """Let batches of more than `n_images` fail in keras, as for a lack of memory; return the sizes that were tried."""
    import keras
    import tensorflow as tf

    def refuse(method, n_images):
        sizes = []
        run = getattr(keras.Model, method)

        def refusing(self, x, *arguments):
            sizes.append(len(x[0]) if isinstance(x, list) else len(x))
            if sizes[-1] > n_images:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return run(self, x, *arguments)

        monkeypatch.setattr(keras.Model, method, refusing)
        return sizes

    return refuse


@pytest.mark.slow
@pytest.mark.parametrize(("method", "n_images"), [("train_on_batch", 2), ("predict_on_batch", 8)])
def test_a_batch_that_does_not_fit_is_halved(method, n_images, tune, refuse, monkeypatch, caplog):
    """It ends as a training that began with the smaller size, also if it is killed and goes on."""
    is_step = method == "train_on_batch"
    if is_step:
        wanted, *_ = tune("small", batch_size=n_images, epochs=1)
    else:
        wanted, *_ = tune("small", extract={"batch_size": n_images}, epochs=1)
    sizes = refuse(method, n_images)

    def write(path, progress):
        write_progress(path, progress)
        if progress.n_steps:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_progress", write)
        patch.setattr(module, "SAVE_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            tune(epochs=1)
    key, first = ("finetune.batch_size", [8, 4, 2]) if is_step else ("extract.batch_size", [16, 8])
    assert sizes[: len(first)] == first
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    half = f"finetune: begins again with half of {key}: there is too little memory for a batch of "
    assert said == [f"{half}{size} images" for size in first[:-1]]
    sizes.clear()
    found, _, limits = tune(epochs=1)
    assert limits == (Limits(2, 16, True) if is_step else Limits(8, 8, True))
    assert set(sizes) == {n_images}
    assert read_weights(found) == read_weights(wanted)


@pytest.mark.slow
def test_a_single_image_that_does_not_fit_is_an_error(tune, refuse):
    refuse("train_on_batch", 0)
    wanted = r"^finetune.batch_size: there is too little memory for one image; choose a later finetune.from_layer, or"
    with pytest.raises(NetworkError, match=wanted):
        tune()


@pytest.mark.slow
@pytest.mark.parametrize("is_missing", [True, False])
def test_without_a_deterministic_kernel_another_is_taken(is_missing, tune, monkeypatch, caplog):
    import keras
    import tensorflow as tf
    from tensorflow.python.framework import config

    run = keras.Model.train_on_batch

    def train_on_batch(*arguments):
        if not is_missing or config.is_op_determinism_enabled():
            raise tf.errors.UnimplementedError(None, None, "no deterministic implementation of X")
        return run(*arguments)

    monkeypatch.setattr(keras.Model, "train_on_batch", train_on_batch)
    was_enabled = config.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        if not is_missing:
            with pytest.raises(NetworkError, match="finetune: the backend cannot train mini_vgg: no deterministic"):
                tune(epochs=1)
            return
        _, tuned, limits = tune(epochs=1)
    finally:  # the other tests of this process go on as they began
        (tf.config.experimental.enable_op_determinism if was_enabled else config.disable_op_determinism)()
    assert limits == Limits(8, 16, False)
    assert len(tuned.history) == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "finetune: begins again without deterministic kernels: no deterministic implementation of X",
        "finetune: not all kernels are deterministic, so another run may give other weights",
    ]


@pytest.mark.slow
def test_weights_and_layers_of_another_network_are_errors(stripes, make):
    def fail(extract, **changes):
        with (
            pytest.raises(NetworkError) as caught,
            tune_network(stripes, make.finetune(**changes), make.augment(), extract),
        ):
            pass
        return str(caught.value)

    said = fail(make.extract("mini_vgg"), from_layer="block_13_expand")
    assert said.startswith("finetune.from_layer: wanted a layer of mini_vgg up to extract.layer, got block_13_expand")
    weights = make.extract("mini_vgg").weights
    other = make.extract("mobilenet_v2", weights=weights, weights_sha256=PARAMS.extract.weights_sha256)
    assert f"{weights} does not hold the weights of mobilenet_v2 without its top" in fail(other)


def test_a_class_without_training_images_is_an_error(stripes, make):
    rows = [row for row in stripes if row.split == "validation" or row.label != "down"]
    wanted = r"^validation: wanted the classes of training, got also \['down'\]; add them to training$"
    with (
        pytest.raises(TrainingError, match=wanted),
        tune_network(rows, make.finetune(), make.augment(), make.extract("mini_vgg")),
    ):
        pass


def test_a_training_runs_once_at_a_time(tmp_path):
    with hold_training(tmp_path / "one"):
        wanted = f"^{tmp_path}/one: another process has this training; wait until it has ended$"
        with pytest.raises(Locked, match=wanted), hold_training(tmp_path / "one"):
            pass
        with hold_training(tmp_path / "other"):
            pass
    with hold_training(tmp_path / "one"), pytest.raises(FileNotFoundError, match="x"):
        (tmp_path / "x").read_bytes()  # passed on


def test_a_folder_that_was_removed_while_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock = fcntl.flock

    def remove_first(*arguments):
        monkeypatch.undo()
        shutil.rmtree(tmp_path / "one")
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with hold_training(tmp_path / "one"):
        assert (tmp_path / "one" / "lock").exists()
        with pytest.raises(Locked), hold_training(tmp_path / "one"):
            pass


def test_what_killed_trainings_left_is_removed(tmp_path):
    """Where they stand is kept for a week, and what another process uses is left alone."""
    names = ["new", "old", "none", "held", "this"]
    for name in names:
        (tmp_path / name / "activations").mkdir(parents=True)
        if name != "none":
            write_progress(tmp_path / name / "progress", Progress(Limits(8, 8, True), [], [], []))
        (tmp_path / name / "lock").touch()
    days_8_ago = time.time() - 8 * 86_400
    os.utime(tmp_path / "old" / "progress", (days_8_ago, days_8_ago))
    with hold_training(tmp_path / "held"), hold_training(tmp_path / "this"):
        remove_abandoned(tmp_path / "this")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["held", "new", "this"]
    assert [name for name in names if (tmp_path / name / "activations").exists()] == ["held", "this"]
    assert read_progress(tmp_path / "new" / "progress") is not None
