import functools
import http.server
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from conftest import ROOT, VGG16, draw_image
from relearn.errors import NetworkError
from relearn.networks.extractor import Extractor
from relearn.networks.recipe import ExtractorRecord
from relearn.params.networks import NETWORKS, ExtractParams
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_file

pytestmark = pytest.mark.slow

BASE = read_params(ROOT / "params.yaml").extract.model_copy(update=VGG16)
MOBILENET_SHA256 = "dd82ae25c2138d0dc9e76b0abff0c6d3f4e5ba7b74842f56a3aba3ff9ff102df"


def make_params(**changes):
    return ExtractParams.model_validate(BASE.model_dump() | {"layer": None, "batch_size": 4} | changes)


def make_extractor(**changes):
    return Extractor(make_params(**changes))


def prepare(extractor, n_images):
    return [extractor.prepare_image(draw_image(seed, (50, 40))) for seed in range(n_images)]


def test_table_of_networks_is_that_of_keras():
    import keras

    functions = {
        name for name in dir(keras.applications) if name[0].isupper() and callable(getattr(keras.applications, name))
    }
    assert functions == set(NETWORKS.values()) - {"MiniVGG"}


@pytest.mark.parametrize(("size", "n_features"), [(224, 25_088), (150, 4 * 4 * 512), (32, 512)])
def test_vgg16_has_its_known_shape(size, n_features):
    extractor = make_extractor(image_size_px=size, pooling="flatten")
    assert extractor.n_features == n_features
    assert extractor.record.n_parameters == 14_714_688
    (features,) = extractor.compute_rows(prepare(extractor, 1))
    assert features.shape == (n_features,)
    assert features.dtype == np.float32


@pytest.mark.parametrize("network", ["vgg16", "mobilenet_v2", "resnet50_v2", "efficientnet_b0", "mobilenet_v3_small"])
def test_preprocessing_is_the_networks_own(network):
    import keras

    modules = {"mobilenet_v3_small": "mobilenet_v3", "efficientnet_b0": "efficientnet", "resnet50_v2": "resnet_v2"}
    extractor = make_extractor(network=network, pooling="avg", image_size_px=64)
    images = prepare(extractor, 4)
    module = getattr(keras.applications, modules.get(network, network))
    expected = extractor._model.predict_on_batch(module.preprocess_input(np.array(images, np.float32)))
    assert np.array_equal(np.array(list(extractor.compute_rows(images))), expected)


@pytest.mark.parametrize("network", ["vgg16", "mobilenet_v2", "mobilenet_v3_small", "mini_vgg"])
def test_batch_lies_in_memory_as_the_device_takes_it(network):
    extractor = make_extractor(network=network, pooling="avg", image_size_px=64)
    images = prepare(extractor, 3)
    batch, n_images = extractor.stack_images(images)
    filled_up = np.array([*images, np.zeros_like(images[0])], np.float32)
    assert n_images == 3
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert batch.tobytes() == np.ascontiguousarray(extractor._preprocess(filled_up)).tobytes()


def test_layers_and_poolings():
    flat = make_extractor(layer="block2_pool", pooling="flatten")
    images = prepare(flat, 3)
    maps = np.array(list(flat.compute_rows(images))).reshape(3, 8, 8, 128)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = make_extractor(layer="block2_pool", pooling=pooling)
        assert pooled.n_features == 128
        np.testing.assert_allclose(list(pooled.compute_rows(images)), reduce(maps, axis=(1, 2)), rtol=1e-5)


def test_unknown_layer_answers_with_the_list():
    with pytest.raises(
        NetworkError, match=r"extract\.layer: wanted a layer of vgg16, got pool9.*; it has .*block5_pool$"
    ):
        make_extractor(layer="pool9")
    with pytest.raises(NetworkError, match=r"got block2pool \(did you mean block2_pool\?\); it has"):
        make_extractor(layer="block2pool")


def test_too_small_an_image_is_told():
    with pytest.raises(NetworkError, match=r"extract\.image_size_px: wanted at least 75 for inception_v3, got 32"):
        make_extractor(network="inception_v3", image_size_px=32)


@pytest.mark.parametrize("network", ["vgg16", "mobilenet_v2", pytest.param("resnet50", marks=pytest.mark.long)])
def test_an_image_gets_the_same_bits_in_whatever_company(network):
    extractor = make_extractor(network=network, pooling="avg", image_size_px=96, batch_size=8)
    images = prepare(extractor, 11)
    features = np.array(list(extractor.compute_rows(images)))
    for image in range(11):
        (alone,) = extractor.compute_rows([images[image]])
        assert np.array_equal(alone, features[image])
    assert np.array_equal(list(extractor.compute_rows(images[::-1])), features[::-1])


def test_features_that_are_not_finite_are_an_error():
    extractor = make_extractor(layer="block1_conv1")
    kernel = extractor._model.get_layer("block1_conv1").kernel
    kernel.assign(np.full(kernel.shape, np.inf, np.float32))
    with pytest.raises(NetworkError, match="wanted finite features, got NaN or infinity; check"):
        extractor.compute_features(prepare(extractor, 2))


PROGRAM = """
import sys
from relearn.errors import NetworkError
from relearn.networks.extractor import Extractor
from relearn.params.networks import ExtractParams

try:
    print(Extractor(ExtractParams.model_validate_json(sys.argv[1])).record.model_dump_json())
except NetworkError as error:
    print(error)
"""


def build_elsewhere(keras_home, params, **environment):
    """Build an extractor in a process of its own, and return what it prints: its record, or the error."""
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, params.model_dump_json()],
        env={"KERAS_HOME": str(keras_home), "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.rstrip()


def test_imagenet_offline_says_which_file_to_put_where(tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    printed = build_elsewhere(tmp_path, make_params(weights="imagenet"), **nowhere)
    name = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert printed.startswith("extract.weights: imagenet: the weights of vgg16 are not on this machine and cannot be")
    assert printed.endswith(f"put that file at {tmp_path / 'models' / name}")


def test_damaged_imagenet_file_is_told(tmp_path):
    path = tmp_path / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    path.parent.mkdir()
    path.write_bytes(b"half")
    printed = build_elsewhere(tmp_path, make_params(network="mobilenet_v2", weights="imagenet", image_size_px=224))
    assert printed.startswith(f"extract.weights: imagenet: the file of mobilenet_v2 in {path.parent} cannot be read: ")
    assert printed.endswith("remove it, and it is downloaded again")


def test_settings_of_keras_in_the_home_folder_change_nothing(tmp_path):
    settings = {"floatx": "float16", "epsilon": 1e-7, "backend": "tensorflow", "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    printed = ExtractorRecord.model_validate_json(build_elsewhere(tmp_path, make_params()))
    assert printed == make_extractor().record
    assert printed.precision == "float32"


@pytest.mark.parametrize("network", ["vgg16", "mobilenet_v2"])  # with means to subtract by channel, and without
def test_what_the_caller_sets_in_keras_changes_nothing(network):
    import keras

    params = {"network": network, "precision": "bfloat16", "pooling": "avg", "image_size_px": 64}
    extractor = make_extractor(**params)
    images = prepare(extractor, 3)
    features = extractor.compute_features(images)
    config = keras.config
    before = config.floatx(), config.dtype_policy().name, config.image_data_format()
    try:
        config.set_floatx("float16")
        config.set_dtype_policy("float64")
        config.set_image_data_format("channels_first")
        for asked in (extractor, make_extractor(**params)):
            assert asked.compute_features(images).tobytes() == features.tobytes()
        assert (config.floatx(), config.dtype_policy().name) == ("float16", "float64")
        assert config.image_data_format() == "channels_first"
    finally:
        config.set_floatx(before[0])
        config.set_dtype_policy(before[1])
        config.set_image_data_format(before[2])
    assert before == ("float32", "float32", "channels_last")


def test_unknown_backend_is_told(tmp_path):
    printed = build_elsewhere(tmp_path, make_params(), KERAS_BACKEND="theano")
    assert printed.startswith("keras cannot be imported with the backend theano: ")


def test_imagenet_weights_are_downloaded(shared, tmp_path, monkeypatch):
    """From a server on this machine: the real code of keras, another address."""
    from keras.src.applications import mobilenet_v2
    from keras.src.utils import file_utils

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=shared / "weights")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(mobilenet_v2, "BASE_WEIGHT_PATH", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
        downloaded = make_extractor(network="mobilenet_v2", weights="imagenet", image_size_px=224, pooling="avg")
        server.shutdown()
    (path,) = (tmp_path / "models").iterdir()
    assert hash_file(path) == MOBILENET_SHA256
    local = make_extractor(
        network="mobilenet_v2", weights=str(path), weights_sha256=MOBILENET_SHA256, image_size_px=224, pooling="avg"
    )
    assert downloaded.record.network_sha256 == local.record.network_sha256


def test_bfloat16_moves_features_a_little_and_leaves_keras_as_it_was():
    features = {}
    for precision in ("float32", "bfloat16", "float32"):
        extractor = make_extractor(precision=precision, image_size_px=64)
        assert extractor.record.precision == precision
        features.setdefault(precision, []).append(extractor.compute_features(prepare(extractor, 3)))
    (first, again), (other,) = features["float32"], features["bfloat16"]
    assert first.tobytes() == again.tobytes()
    assert first.dtype == other.dtype == np.float32
    assert 1e-4 < np.abs(first - other).max() / np.abs(first).max() < 0.05


def test_auto_records_what_it_picked(monkeypatch):
    monkeypatch.setattr("relearn.networks.extractor.choose_precision", lambda wanted: {"auto": "float32"}[wanted])
    assert make_extractor(precision="auto").record.precision == "float32"


def test_features_may_be_stored_in_half_the_room():
    extractor = make_extractor(feature_dtype="float16")
    images = prepare(extractor, 3)
    half, whole = extractor.compute_features(images), make_extractor().compute_features(images)
    assert half.dtype == np.float16
    assert np.array_equal(half, whole.astype(np.float16))


def test_value_that_does_not_fit_is_an_error(monkeypatch):
    extractor = make_extractor(feature_dtype="float16")
    images = prepare(extractor, 2)
    preprocess = extractor._preprocess
    monkeypatch.setattr(extractor, "_preprocess", lambda batch: preprocess(batch) * 1e6)
    message = r"wanted finite features, got .* too large for float16; set extract\.feature_dtype to float32"
    with pytest.raises(NetworkError, match=message):
        extractor.compute_features(images)


@pytest.mark.parametrize(
    "error",
    [
        type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        type("XlaRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_lack_of_memory_is_told_alike_by_all_backends(monkeypatch, error):
    extractor = make_extractor()

    def fail(batch):
        raise error

    monkeypatch.setattr(extractor._model, "predict_on_batch", fail)
    with pytest.raises(MemoryError, match="a batch of 4 images"):
        extractor.compute_features(prepare(extractor, 2))
