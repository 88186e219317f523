"""How fast features come on a GPU, whether they are right there, what the GPU waits for, and how fast networks learn.

Usage: benchmarks/gpu.sh [--small] [--seconds 420] [--backends torch,jax] [--networks vgg16,...]

The script makes its photos, checks the features, then measures each network with each backend in a process of its own:
one that fails, hangs or dies costs its own rows alone. No measurement starts after `--seconds`. What is known so far
stands in gpu.md and gpu.json after each process, in the folder $OUT, or else in benchmarks/gpu-out. `--small` is for a
machine without a GPU: it tries the script, and its figures say nothing about one.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

HERE = Path(__file__).resolve().parent
NETWORKS = ("vgg16", "resnet50", "efficientnet_b0", "mobilenet_v2")
BACKENDS = ("torch", "jax")
# TFLOP/s of a large product of bfloat16 matrices, as measured on such cards.
KNOWN_TFLOPS = {"H100": 790, "H200": 790}
# Largest difference of a row of features, as a share of its distance from the mean row, for random weights give all
# photos much in common. The libraries of both backends multiply float32 on the matrix units in TF32, which keeps 10
# bits of the fraction, unless NVIDIA_TF32_OVERRIDE and JAX's own setting say otherwise. bfloat16 keeps 7: its limit is
# a cosine, of distances from the mean row too. On CPUs 2.2e-5 and 0.947 were seen; another photo has 3.9, 0.75.
MAX_DIFFERENCE = 5e-2
MAX_STRICT_DIFFERENCE = 1e-3
MIN_COSINE = 0.9
# From which layer on they learn; None is the last block.
TRAINED = {"vgg16": None, "mobilenet_v2": "Conv1"}
# Whose features are computed again in another process, and without TF32.
CHECKED_NETWORKS = ("resnet50", "efficientnet_b0")
MEMORY_BYTES = 6 * 2**30  # what the card is limited to where memory is to run out
NO_TF32 = {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}


class Size(NamedTuple):
    """How much is made and measured; the first batch size is the one of the checks."""

    n_photos: int
    image_size_px: int
    batch_sizes: tuple[int, int]
    n_checked: int
    seconds: float
    matrix: int
    memory_batch: int  # for which there is no memory where that is limited
    task_seconds: int


FULL = Size(4096, 224, (256, 32), 64, 1.0, 8192, 512, 110)
SMALL = Size(96, 96, (16, 8), 8, 0.3, 1024, 2048, 300)


def make_photo(number):
    """Write a JPEG of 640 x 480 with detail at all sizes, about 70 kB as usual photos have, and return its row."""
    from extract import place
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(number)
    pixels = np.full((480, 640, 3), 128, np.float32)
    for n_columns, deviation in ((4, 60), (16, 35), (64, 18), (160, 12), (480, 9)):
        noise = Image.fromarray(rng.integers(0, 256, (n_columns * 3 // 4, n_columns, 3), np.uint8))
        larger = np.asarray(noise.resize((640, 480), Image.Resampling.BICUBIC), np.float32)
        pixels += (larger - 127.5) * np.float32(deviation / 74)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for x, y, width, height in rng.integers((0, 0, 20, 20), (600, 440, 240, 200), (12, 4)).tolist():
        draw.ellipse((x, y, x + width, y + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    file = BytesIO()
    image.save(file, "JPEG", quality=85)
    return place(file.getvalue(), number)


# What the processes of a backend do.


class Torch:
    """PyTorch under keras: arrays sent to the device, work that is waited for."""

    def __init__(self):
        import torch

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.is_gpu = self._device.type == "cuda"
        self.versions = {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version() if self.is_gpu else None}

    def send(self, array):
        """Copy an array to the device and wait for it."""
        return self._torch.from_numpy(array).to(self._device)

    def wait(self):
        """Wait until the device has done all that it was given."""
        if self.is_gpu:
            self._torch.cuda.synchronize()

    def limit_memory(self, share):
        """Let this process have a share of the card's memory alone."""
        self._torch.cuda.set_per_process_memory_fraction(share)

    def make_product(self, n, dtype):
        """Return a function that multiplies random matrices k times."""
        a, b = (self._torch.randn(n, n, device=self._device).to(getattr(self._torch, dtype)) for _ in range(2))

        def run(k):
            for _ in range(k):
                self._torch.matmul(a, b)
            self.wait()

        return run

    def make_runner(self, model, batch):
        """Return a function that runs the step of `predict_on_batch` k times on a batch that is there already."""

        def run(k):
            for _ in range(k):
                model.predict_function([(batch,)])
            self.wait()

        return run

    def make_replay(self, model, batch):
        """Return a function that runs what the GPU does for a batch k times, without Python between."""
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.no_grad(), self._torch.cuda.graph(graph):
            model(batch, training=False)

        def run(k):
            for _ in range(k):
                graph.replay()
            self.wait()

        return run


class JAX:
    """JAX under keras: the same."""

    def __init__(self):
        import jax

        self._jax = jax
        self.is_gpu = jax.default_backend() == "gpu"
        self.versions = {"PJRT": " ".join(jax.devices()[0].client.platform_version.split())} if self.is_gpu else {}

    def send(self, array):
        """Copy an array to the device and wait for it."""
        return self._jax.device_put(array).block_until_ready()

    def make_product(self, n, dtype):
        """Return a function that multiplies random matrices k times."""
        keys = self._jax.random.split(self._jax.random.key(0))
        a, b = (self._jax.random.normal(key, (n, n), dtype) for key in keys)
        multiply = self._jax.jit(self._jax.numpy.matmul)

        def run(k):
            for _ in range(k):
                product = multiply(a, b)
            product.block_until_ready()

        return run

    def make_runner(self, model, batch):
        """Return a function that runs the step of `predict_on_batch` k times on a batch that is there already."""
        # keras' step takes the weights' memory and gives it back, so from call to call the state is handed on; keras
        # itself stores it into every variable after each batch.
        variables = (model.trainable_variables, model.non_trainable_variables)

        def run(k):
            state = tuple([variable.value for variable in part] for part in variables)
            for _ in range(k):
                features, state = model.predict_function(state, iter([(batch,)]))
            features.block_until_ready()
            for part, values in zip(variables, state, strict=True):
                for variable, value in zip(part, values, strict=True):
                    variable.assign(value)

        return run


def open_device():
    """Return the device of keras' backend; it must be the GPU if the machine has one."""
    device = {"torch": Torch, "jax": JAX}[os.environ["KERAS_BACKEND"]]()
    if os.environ.get("GPU_NAME") and not device.is_gpu:
        sys.exit(f"{os.environ['KERAS_BACKEND']} does not find the GPU {os.environ['GPU_NAME']}")
    return device


def record(kind, **values):
    """Hand a result to the process that started this one."""
    line = {"kind": kind, "backend": os.environ["KERAS_BACKEND"], **values}
    with Path("results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def noting(what, **key):
    """Record the error of a block, so that what comes after it is measured all the same."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever a library raises, it costs this row alone)
        traceback.print_exc()
        record("failed", what=what, **key, reason=" ".join(f"{type(error).__name__}: {error}".split())[:300])


def measure_pace(run, n_images, seconds):
    """Return images/s: the median of three rounds, after two calls that warm up."""
    run(1)
    start = time.perf_counter()
    run(1)
    once = time.perf_counter() - start
    k = max(1, round(seconds / 3 / once))
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        run(k)
        rounds.append(time.perf_counter() - start)
    return k * n_images / statistics.median(rounds)


def repeat(function, *arguments):
    """Return a function that calls another k times."""

    def run(k):
        for _ in range(k):
            function(*arguments)

    return run


def make_params(size, network, precision, batch_size):
    from extract import make_params

    changed = {"image_size_px": size.image_size_px, "batch_size": batch_size}
    return make_params(network, "random", precision).model_copy(update=changed)


def read_rows():
    from relearn import paths
    from relearn.dataset.manifest import read_manifest

    return read_manifest(paths.MANIFEST)


def read_photos(extractor, n_photos):
    from relearn.features.computation import read_prepared
    from relearn.runtime.threads import map_ahead

    rows = read_rows()[:n_photos]
    return list(map_ahead(lambda row: read_prepared(extractor, row), rows, len(rows)))


def count_flop(model):
    """Return the multiplications and additions of an image's convolutions, two for each pair of numbers."""
    total = 0
    for layer in model.layers:
        if type(layer).__name__ == "DepthwiseConv2D":
            height, width, _, multiplier = layer.kernel.shape
            total += 2 * height * width * multiplier * layer.input.shape[-1] * int(np.prod(layer.output.shape[1:3]))
        elif type(layer).__name__ == "Conv2D":
            total += 2 * int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:3]))
    return total


def save_features(features, network, precision, kind):
    np.save(f"features/{os.environ['KERAS_BACKEND']}-{network}-{precision}-{kind}.npy", features)


def compute_features(size, kind, networks, precisions, batch_size):
    """Save the features of the first photos."""
    from relearn.networks.extractor import Extractor

    open_device()
    for network in networks:
        for precision in precisions:
            with noting(kind, network=network, precision=precision, batch_size=batch_size):
                extractor = Extractor(make_params(size, network, precision, batch_size))
                photos = read_photos(extractor, size.n_checked)
                save_features(extractor.compute_features(photos), network, precision, kind)


def compute_reference(size):
    compute_features(size, "reference", NETWORKS, ["float32"], size.n_checked)


def compute_strict(size):
    compute_features(size, "strict", CHECKED_NETWORKS, ["float32"], size.n_checked)


def compute_again(size):
    compute_features(size, "again", CHECKED_NETWORKS, ["float32", "bfloat16"], size.batch_sizes[0])


def run_out_of_memory(size):
    """Let the stage's own function fill a store with a batch size for which there is no memory."""
    from relearn.features.computation import fill_store, make_reader
    from relearn.features.store import FeatureStore

    device = open_device()
    if device.is_gpu and isinstance(device, Torch):
        device.limit_memory(float(os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"]))  # JAX reads it itself
    elif not device.is_gpu:
        limit_address_space(2 * 2**30)
    rows = read_rows()[: size.n_checked]
    params = make_params(size, "vgg16", "float32", size.memory_batch)
    name = os.environ["KERAS_BACKEND"]
    with FeatureStore(Path(f"memory-{name}.sqlite")) as store:
        found, feature_set = fill_store(store, rows, params)
        read = make_reader(feature_set, found)
        save_features(np.array([read(row.sha256) for row in rows]), "vgg16", "float32", "memory")
    record("memory", wanted=size.memory_batch, batch_size=found["batch_size"])


def limit_address_space(n_bytes):
    """Allow this process so much more than it has."""
    import resource

    import keras  # noqa: F401 (what it takes is to be there already)

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + n_bytes,) * 2)


def measure_machine(size):
    """Record the rates of the card that all others are held against."""
    device = open_device()
    flop = 2 * size.matrix**3
    rates = {dtype: measure_pace(device.make_product(size.matrix, dtype), flop, 1) for dtype in ("bfloat16", "float32")}
    photos = np.zeros((256, 224, 224, 3), np.float32)
    sent = measure_pace(repeat(device.send, photos), photos.nbytes, 1) / 1e9 if device.is_gpu else None
    record("machine", **{f"{dtype}_tflops": rate / 1e12 for dtype, rate in rates.items()}, sent_gb_per_second=sent)


def measure_network(size, network):
    """Record everything about a network with a backend."""
    device = open_device()
    packages = ("keras", os.environ["KERAS_BACKEND"], "numpy", "pillow")
    versions = {name: importlib.metadata.version(name) for name in packages}
    record("versions", **versions, python=platform.python_version(), **device.versions)
    first, other = size.batch_sizes
    built = []
    for number, (precision, batch_size) in enumerate((("bfloat16", first), ("float32", first), ("bfloat16", other))):
        key = {"network": network, "precision": precision, "batch_size": batch_size}
        if number and time.time() > float(os.environ["GPU_UNTIL"]):
            record("left_out", **key)
            continue
        with noting("measure", **key):
            params = make_params(size, **key)
            extractor, photos = build_network(size, params, key)
            built.append((key, extractor, photos))
            measure_paces(size, device, extractor, photos, key)
            if not number:
                measure_parts(size, device, extractor, photos, key)
            record("row", **key, **measure_end_to_end(extractor, params))
            if not number:
                measure_draft(size, extractor, params, key)
    # Last, because a capture that fails can leave the process unable to go on.
    for key, extractor, photos in built:
        if device.is_gpu and isinstance(device, Torch):
            with noting("kernels", **key):
                replay = device.make_replay(extractor._model, device.send(extractor.stack_images(photos)[0]))
                record("row", **key, kernels=measure_pace(replay, len(photos), size.seconds))


def build_network(size, params, key):
    """Return the extractor, which has run once, and photos for a batch; its features are checked."""
    from relearn.networks.extractor import Extractor

    start = time.perf_counter()
    extractor = Extractor(params)
    photos = read_photos(extractor, params.batch_size)
    built = time.perf_counter()
    extractor.compute_features(photos)
    times = {"build_seconds": built - start, "first_batch_seconds": time.perf_counter() - built}
    record("row", **key, **times, gflop=count_flop(extractor._model) / 1e9)
    if params.batch_size == size.batch_sizes[0]:
        check_bits(extractor, photos[: size.n_checked], key)
    return extractor, photos


def measure_paces(size, device, extractor, photos, key):
    """Record images/s of the network on a batch that lies on the device, and of one that comes from the host."""
    batch, n_images = extractor.stack_images(photos)
    alone = device.make_runner(extractor._model, device.send(batch))
    record("row", **key, network_alone=measure_pace(alone, n_images, size.seconds))
    record("row", **key, from_host=measure_pace(repeat(extractor._run, batch, n_images), n_images, size.seconds))


def measure_parts(size, device, extractor, photos, key):
    """Record images/s of what comes before the network, each alone."""
    batch, n_images = extractor.stack_images(photos)

    def pace(function, *arguments):
        return measure_pace(repeat(function, *arguments), n_images, size.seconds / 2)

    record("row", **key, stack=pace(extractor.stack_images, photos))
    if device.is_gpu:
        record("row", **key, send=pace(device.send, batch), send_uint8=pace(device.send, np.array(photos)))
    record("row", **key, decode=measure_decoding(size, extractor))


def measure_draft(size, extractor, params, key):
    """Record the paces where JPEGs are decoded at a part of their size."""
    extractor._params = params = params.model_copy(update={"jpeg_draft": True})
    found = {"decode": measure_decoding(size, extractor), **measure_end_to_end(extractor, params)}
    record("row", **key, **{f"draft_{name}": value for name, value in found.items()})


def check_bits(extractor, photos, key):
    """Save the features of photos; record whether once more, and in other places of the batch, they are the same."""
    features = extractor.compute_features(photos)
    save_features(features, key["network"], key["precision"], "measured")
    again = extractor.compute_features(photos)
    moved = extractor.compute_features(photos[::-1])[::-1]
    record("bits", **key, again=bool((again == features).all()), moved=bool((moved == features).all()))


def measure_decoding(size, extractor):
    """Return images/s of reading, hashing, decoding and resizing in all threads, and nothing else."""
    from relearn.features.computation import read_prepared
    from relearn.runtime.threads import count_threads, map_ahead

    rows = read_rows()
    start, n_done = time.perf_counter(), 0
    for _ in map_ahead(lambda row: read_prepared(extractor, row), rows, 2 * count_threads()):
        n_done += 1
        if time.perf_counter() - start > 1.5 * size.seconds:
            break
    return n_done / (time.perf_counter() - start)


class Clock:
    """Seconds spent in functions, over all threads."""

    def __init__(self):
        self.seconds = {}
        self._changing = threading.Lock()

    def time(self, name, function):
        """Return a function that does the same, timed under the name."""

        def timed(*arguments):
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                with self._changing:
                    self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return timed


def measure_end_to_end(extractor, params):
    """Return images/s from files to the store, as `extract` does it, and which share of the time each part is busy."""
    from relearn.features import computation
    from relearn.features.store import FeatureSet, FeatureStore
    from relearn.features.views import Input
    from relearn.networks.recipe import describe_recipe
    from relearn.runtime.threads import count_threads

    rows = read_rows()
    clock = Clock()
    timed = [
        mock.patch.object(computation, "read_prepared", clock.time("decode", computation.read_prepared)),
        mock.patch.object(extractor, "stack_images", clock.time("stack", extractor.stack_images)),
        mock.patch.object(extractor, "_run", clock.time("network", extractor._run)),
        mock.patch.object(FeatureSet, "add", clock.time("store", FeatureSet.add)),
    ]
    folder = Path(tempfile.mkdtemp(dir="."))
    with FeatureStore(folder / "features.sqlite") as store, contextlib.ExitStack() as stack:
        for patch in timed:
            stack.enter_context(patch)
        feature_set = store.open_feature_set(describe_recipe(params))
        start = time.perf_counter()
        n_done = sum(1 for _ in computation.compute_missing(extractor, list(map(Input, rows)), feature_set))
        seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    if n_done != len(rows):
        raise RuntimeError(f"wanted features of {len(rows)} photos, got {n_done}")
    clock.seconds["decode"] /= count_threads()
    return {"end_to_end": n_done / seconds, "busy": {name: s / seconds for name, s in clock.seconds.items()}}


def measure_training(size):
    """Record images/s of training steps, on activations that lie in memory, for networks whose upper part learns."""
    from relearn.finetuning.network import TunableNetwork
    from relearn.params.finetuning import FinetuneParams

    open_device()
    n_images = size.batch_sizes[0]
    options = {"epochs": 1, "learning_rate": 1e-4, "head_learning_rate": 1e-4, "layer_decay": 1.0, "weight_decay": 0.0}
    options |= {"warmup_epochs": 0, "label_smoothing": 0.0, "batch_size": n_images, "patience": 1, "keep": "always"}
    options |= {"views": 0, "activations_gb": 1.0, "seed": 0}
    for network, from_layer in TRAINED.items():
        key = {"network": network, "precision": "bfloat16", "batch_size": n_images}
        with noting("train", **key):
            params = make_params(size, **key).model_copy(update={"layer": None, "pooling": "avg"})
            finetune = FinetuneParams.model_validate(options | {"from_layer": from_layer})
            tuned = TunableNetwork(params, finetune, 10)
            rng = np.random.default_rng(0)
            crossing = [rng.random((n_images, *shape), np.float32) for shape in tuned.shapes]
            labels = np.arange(n_images) % 10
            pace = measure_pace(repeat(tuned.train_batch, crossing, labels, 1e-3), n_images, size.seconds)
            gflop = 3 * count_flop(tuned._upper) / 1e9  # forward, the gradients of the inputs, those of the weights
            record("trained", **key, first_layer=tuned.first_layer, pace=pace, tflops=pace * gflop / 1e3)


TASKS = {
    "train": measure_training,
    "reference": compute_reference,
    "strict": compute_strict,
    "again": compute_again,
    "memory": run_out_of_memory,
    "machine": measure_machine,
    "measure": measure_network,
}


# What the process does that starts them.


class GPU(NamedTuple):
    """The card as nvidia-smi describes it."""

    name: str
    memory_mib: int
    driver: str


def find_gpu():
    """Return the first GPU, or None."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    name, memory, driver = (cell.strip() for cell in answer.splitlines()[0].split(","))
    return GPU(name, int(memory), driver)


class Director:
    """Starts the processes, one time limit over all, and writes what they found."""

    def __init__(self, options, gpu):
        self._options, self._gpu = options, gpu
        self.size = SMALL if options.small else FULL
        self._started = time.time()
        self._until = self._started + options.seconds
        self._out = Path(os.environ.get("OUT") or HERE / "gpu-out").resolve()
        self._out.mkdir(parents=True, exist_ok=True)
        (self._out / "gpu.log").write_text("")
        self._failures = []
        self._changing = threading.Lock()

    def run(self, task, backend, *arguments, **environment):
        """Run a task in a process of its own; one that fails or takes too long is noted."""
        name = " ".join([task, backend, *arguments])
        seconds = min(self.size.task_seconds, self._until + 30 - time.time())
        if seconds < 15:
            self._note(name, "not started: no time was left")
            return
        command = [sys.executable, __file__, *(["--small"] if self._options.small else []), "--task", task, *arguments]
        variables = {**os.environ, "KERAS_BACKEND": backend, "GPU_NAME": self._gpu.name if self._gpu else ""}
        start, log = time.time(), Path(f"{name.replace(' ', '-')}.log")
        with log.open("w") as file:
            process = subprocess.Popen(command, env=variables | environment, stdout=file, stderr=file)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                process.kill()
                process.wait()
        text = log.read_text(errors="replace")
        with self._changing, (self._out / "gpu.log").open("a") as file:
            file.write(f"== {name}: {time.time() - start:.0f} s, exit {code}\n{text[-20_000:]}\n")
        if code != 0:
            last = (text.strip().splitlines() or ["no word"])[-1][:300]
            self._note(name, f"killed after {seconds:.0f} s" if code is None else f"exit {code}: {last}")
        print(f"{time.time() - self._started:5.0f} s  {name}: {time.time() - start:.0f} s", flush=True)

    def _note(self, name, reason):
        print(f"FAILED  {name}: {reason}", flush=True)
        with self._changing:
            self._failures.append(f"{name}: {reason}")

    def measure(self):
        """Measure each network with each backend, each in its share of the time left; write what is known so far."""
        pairs = [(network, backend) for network in self._options.networks for backend in self._options.backends]
        for number, (network, backend) in enumerate(pairs):
            share = (self._until - time.time()) / (len(pairs) - number)
            self.run("measure", backend, network, GPU_UNTIL=str(time.time() + share))
            self.write()

    def check(self):
        """Compute what features are compared with, several processes at a time."""
        share = MEMORY_BYTES / 2**20 / self._gpu.memory_mib if self._gpu else 1
        together = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as executor:
            first = self._options.backends[0]
            hidden = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "GPU_NAME": ""}
            waiting = [executor.submit(self.run, "reference", first, **hidden)]
            for backend in self._options.backends:
                waiting.append(executor.submit(self.run, "strict", backend, **together, **NO_TF32))
                waiting.append(executor.submit(self.run, "again", backend, **together))
                if self._gpu or backend == "torch":  # on CPUs XLA computes a large batch piece by piece
                    limited = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{share:.4f}"}
                    waiting.append(executor.submit(self.run, "memory", backend, **limited))
            for future in waiting:
                future.result()

    def write(self):
        """Write gpu.json and gpu.md; return the latter's text and whether all checks passed."""
        lines = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
        rows = merge_rows(lines)
        checks = [*check_features(), *check_records(lines)]
        about = describe(self._gpu, lines, self._options.small, self.size)
        failed = [line for line in lines if line["kind"] == "failed"]
        failures = [*self._failures, *map(describe_failure, failed)]
        left_out = [" ".join(name_row(line)) for line in lines if line["kind"] == "left_out"]
        trained = [line for line in lines if line["kind"] == "trained"]
        found = {
            "about": about,
            "rows": rows,
            "trained": trained,
            "checks": checks,
            "failures": failures,
            "left_out": left_out,
        }
        (self._out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        text = write_markdown(found)
        (self._out / "gpu.md").write_text(text)
        # A network need not be one that CUDA can record.
        wrong = self._failures or [line for line in failed if line["what"] != "kernels"]
        return text, bool(rows) and not wrong and all(check["passed"] for check in checks)


def describe(gpu, lines, small, size):
    """Return what the figures are of."""
    machine = next((line for line in lines if line["kind"] == "machine"), None)
    versions = {}
    for line in lines:
        if line["kind"] == "versions":
            versions |= {key: value for key, value in line.items() if key not in ("kind", "backend") and value}
    known = next((rate for name, rate in KNOWN_TFLOPS.items() if gpu and name in gpu.name), None)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "card": gpu.name if gpu else f"none, {platform.machine()}",
        "driver": gpu.driver if gpu else None,
        "cores": os.cpu_count(),
        "image_size_px": size.image_size_px,
        "n_photos": size.n_photos,
        "known_bfloat16_tflops": known,
        "small": small,
        "machine": machine,
        "versions": versions,
    }


def merge_rows(lines):
    """Return one row per network, precision, backend and batch size, with all that was recorded of it."""
    rows = {}
    for line in lines:
        if line["kind"] == "row":
            key = tuple(line[name] for name in ("network", "precision", "backend", "batch_size"))
            rows.setdefault(key, {}).update(line)
    order = {network: number for number, network in enumerate(NETWORKS)}
    return [rows[key] for key in sorted(rows, key=lambda key: (order[key[0]], *key[1:3], -key[3]))]


def compare(features, reference):
    """Return the largest difference of a row and the lowest cosine of two, both seen from the reference's mean row."""
    mean = reference.mean(axis=0, dtype=np.float64)
    features, reference = features - mean, reference - mean
    norms = np.linalg.norm(features, axis=1), np.linalg.norm(reference, axis=1)
    difference = (np.linalg.norm(features - reference, axis=1) / norms[1]).max()
    return float(difference), float(((features * reference).sum(axis=1) / norms[0] / norms[1]).min())


def check_features():
    """Return a check for each pair of features of the same photos that there is."""
    arrays = {tuple(path.stem.split("-")): np.load(path) for path in sorted(Path("features").glob("*.npy"))}
    references = {key[1]: array for key, array in arrays.items() if key[3] == "reference"}
    checks = []

    def add(key, what, found, limit, passed):
        checks.append({"of": " ".join(key[:3]), "what": what, "found": found, "limit": limit, "passed": bool(passed)})

    for key, array in arrays.items():
        backend, network, precision, kind = key
        if kind == "reference":
            continue
        if kind == "again":
            if (measured := arrays.get((*key[:3], "measured"))) is not None:
                same = array.tobytes() == measured.tobytes()
                add(key, "the same bits in another process", f"{(array == measured).mean():.1%} equal", "100 %", same)
        elif precision == "float32" and network in references:
            limit = MAX_STRICT_DIFFERENCE if kind == "strict" else MAX_DIFFERENCE
            what = {
                "strict": "beside the CPU, without TF32",
                "measured": "beside the CPU",
                "memory": "beside the CPU, memory for a smaller batch alone",
            }[kind]
            difference, _ = compare(array, references[network])
            add(key, what, f"difference {difference:.1e}", f"{limit:.0e}", difference <= limit)
        elif kind == "measured" and (float32 := arrays.get((backend, network, "float32", "measured"))) is not None:
            _, cosine = compare(array, float32)
            add(key, "beside float32", f"cosine {cosine:.4f}", f"{MIN_COSINE}", cosine >= MIN_COSINE)
    return checks


def check_records(lines):
    """Return a check for each thing that a process compared itself."""
    checks = []
    for line in lines:
        if line["kind"] == "memory":
            wanted, used = line["wanted"], line["batch_size"]
            found = {"of": f"{line['backend']} vgg16 float32", "what": f"memory runs out at {wanted} images"}
            checks.append(found | {"found": f"a batch of {used}", "limit": "less", "passed": used < wanted})
        elif line["kind"] == "bits":
            of = " ".join([line["backend"], line["network"], line["precision"]])
            for name, what in (("again", "the same bits again"), ("moved", "the same bits in another place")):
                found = "yes" if line[name] else "no"
                checks.append({"of": of, "what": what, "found": found, "limit": "yes", "passed": line[name]})
    return checks


def write_markdown(found):
    """Return two tables, paces and parts, and the checks."""
    about, rows = found["about"], found["rows"]
    machine = about["machine"] or {}
    peak = machine.get("bfloat16_tflops")
    text = [
        f"{about['date']}, {about['card']}, driver {about['driver']}, {about['cores']} cores, "
        f"{about['image_size_px']} px, {about['n_photos']:,} photos of 640 x 480; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    ]
    if about["small"]:
        text.append("A trial at small size: the figures say nothing about a GPU.")
    if peak:
        known = about["known_bfloat16_tflops"]
        text.append(
            f"A product of matrices measured in this run: {peak:.3g} TFLOP/s in bfloat16"
            + (f" (known of this card: {known})" if known else "")
            + f", {machine['float32_tflops']:.3g} in float32; "
            + (
                f"sent to the card: {machine['sent_gb_per_second']:.1f} GB/s."
                if machine["sent_gb_per_second"]
                else "no card."
            )
        )
    names = ["network", "precision", "backend", "batch"]
    text.append(table([*names, *PACES], [[*name_row(row), *describe_pace(row, peak)] for row in rows]))
    text.append(table([*names, *PARTS], [[*name_row(row), *describe_parts(row)] for row in rows]))
    trained = [describe_training(line, peak) for line in found["trained"]]
    columns = ["fine-tuned, bfloat16", "from", "backend", "batch", "images/s", "TFLOP/s", "of the matrix rate"]
    text.append(table(columns, trained))
    checks = [[c["of"], c["what"], c["found"], c["limit"], "yes" if c["passed"] else "**NO**"] for c in found["checks"]]
    text.append(table(["of", "check", "found", "limit", "passed"], checks))
    text += [f"- failed: {failure}" for failure in found["failures"]]
    text += [f"- left out, no time: {row}" for row in found["left_out"]]
    return "\n\n".join(text) + "\n"


def describe_training(line, peak):
    share = line["tflops"] / peak if peak else None
    names = [line["network"], line["first_layer"], line["backend"], str(line["batch_size"])]
    return [*names, show(line["pace"]), show(line["tflops"], ".3g"), show(share, ".1%")]


def describe_failure(line):
    return f"{line['what']} {' '.join(name_row(line))}: {line['reason']}"


def name_row(row):
    return [row["network"], row["precision"], row["backend"], str(row["batch_size"])]


def show(value, form=",.0f"):
    return "" if value is None else format(value, form)


PACES = (
    "network alone, images/s",
    "TFLOP/s",
    "of the matrix rate",
    "kernels alone",
    "from the host",
    "decoding alone",
    "end to end",
    "of the network alone",
    "decoding alone, draft",
    "end to end, draft",
)


def describe_pace(row, peak):
    alone = row.get("network_alone")
    tflops = alone * row["gflop"] / 1e3 if alone else None
    return [
        show(alone),
        show(tflops, ".3g"),
        show(tflops / peak if tflops and peak else None, ".1%"),
        *(show(row.get(name)) for name in ("kernels", "from_host", "decode", "end_to_end")),
        show(row["end_to_end"] / alone if alone and "end_to_end" in row else None, ".0%"),
        *(show(row.get(name)) for name in ("draft_decode", "draft_end_to_end")),
    ]


PARTS = (
    "batch put together, images/s",
    "sent as float32",
    "sent as uint8",
    "busy end to end: decoding",
    "batch put together",
    "network",
    "store",
    "the limit",
    "first batch, s",
)


def describe_parts(row):
    busy = row.get("busy", {})
    return [
        *(show(row.get(name)) for name in ("stack", "send", "send_uint8")),
        *(show(busy.get(name), ".0%") for name in ("decode", "stack", "network", "store")),
        find_limit(busy),
        show(row.get("first_batch_seconds"), ".1f"),
    ]


def find_limit(busy):
    """Return the part that the others wait for; none where each waits, as threads do for Python's lock."""
    if not busy:
        return ""
    name = max(busy, key=busy.get)
    return name if busy[name] > 0.8 else "none alone"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--backends", type=lambda text: text.split(","), default=list(BACKENDS))
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = parse_options()
    if options.task:
        name, *arguments = options.task
        TASKS[name](SMALL if options.small else FULL, *arguments)
        return
    gpu = find_gpu()
    if gpu is None and not options.small:
        sys.exit("gpu.py: wanted an NVIDIA GPU (nvidia-smi), got none; --small tries the script on the CPU")
    from relearn import paths
    from relearn.dataset.manifest import write_manifest

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        start = time.time()
        director = Director(options, gpu)
        Path("features").mkdir()
        Path("results.jsonl").touch()
        with ProcessPoolExecutor() as executor:
            write_manifest(paths.MANIFEST, executor.map(make_photo, range(director.size.n_photos), chunksize=16))
        print(f"{director.size.n_photos} photos in {time.time() - start:.0f} s", flush=True)
        director.check()
        director.run("machine", options.backends[0])
        for backend in options.backends:
            director.run("train", backend)
        director.measure()
        text, passed = director.write()
        os.chdir(HERE)
    print(text)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
