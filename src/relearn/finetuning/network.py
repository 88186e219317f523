"""A pretrained network whose upper part learns, with a head of its own."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from relearn.errors import NetworkError
from relearn.finetuning.optimizer import choose_compilation, make_optimizer
from relearn.finetuning.schedule import scale_rates
from relearn.networks.batch_norm import fuse_batch_norm
from relearn.networks.extractor import build_network, cut_network, find_preprocessing, name_shortage
from relearn.networks.hardware import choose_precision
from relearn.networks.reading import ImageReader, group_items
from relearn.networks.splitting import choose_first_layer, count_blocks_above, hold_batch_norm, split_network
from relearn.networks.weights import shorten_error
from relearn.networks.winograd import is_supported, transform_convolutions
from relearn.params.finetuning import FinetuneParams
from relearn.params.networks import NetworkParams
from relearn.runtime.backend import use_keras
from relearn.runtime.threads import prefetch

# What crosses the cut for some images: an array (images, ...) for each output of the lower part.
Crossing = list[np.ndarray]


class BatchTooLarge(MemoryError):
    """There is too little memory for a batch; `key` is the parameter that says how many images it has."""

    def __init__(self, key: str, size: int) -> None:
        super().__init__(f"a batch of {size} images")
        self.key, self.size = key, size


class NoDeterministicKernel(Exception):
    """The backend has only kernels for an operation that add in another order each time."""


@contextmanager
def name_failure(key: str, size: int) -> Iterator[None]:
    """Raise `BatchTooLarge` or `NoDeterministicKernel`, whatever the backend raises for these."""
    try:
        with name_shortage(size):
            yield
    except MemoryError as error:
        raise BatchTooLarge(key, size) from error
    except Exception as error:
        if type(error).__name__ == "UnimplementedError":
            raise NoDeterministicKernel(shorten_error(error)) from error
        raise


class Result(NamedTuple):
    """The mean loss of some images, and the share of right answers: of the network's own head, before the step."""

    loss: float
    accuracy: float


class TunableNetwork(ImageReader):
    """The network in two parts, and a layer of its own from its features to the logits of the classes.

    Attributes
    ----------
    first_layer : str
        The first that learns.
    n_weights, n_learning : int
        The numbers of all weights up to `extract.layer` and of those that learn, without the head.
    shapes : list of tuple
        The shape of each output of the lower part, without the axis of the images.
    """

    def __init__(self, params: NetworkParams, finetune: FinetuneParams, n_classes: int) -> None:
        params = params.model_copy(update={"precision": choose_precision(params.precision)})
        self.n_classes = n_classes
        self._finetune = finetune
        with use_keras(params.precision) as keras:
            keras.utils.set_random_seed(finetune.seed)  # of dropout
            super().__init__(params, find_preprocessing(keras, params.network))
            self._build(keras, params)

    def _build(self, keras: Any, params: NetworkParams) -> None:
        self._whole = build_network(keras, params)
        cut = cut_network(keras, self._whole, params)
        self.first_layer = choose_first_layer(cut, params.network, self._finetune.from_layer)
        lower, self._upper = split_network(keras, cut, self.first_layer)
        self.shapes = [tuple(output.shape[1:]) for output in lower.outputs]
        # The lower part is used as it is, so it may be made faster.
        self._lower = fuse_batch_norm(keras, lower)
        if is_supported(params.precision):
            self._lower = transform_convolutions(keras, self._lower)
        hold_batch_norm(keras, self._upper)
        rates = scale_rates(count_blocks_above(self._upper), self._finetune)
        if not rates:
            raise NetworkError(
                where="finetune.from_layer",
                wanted="a layer from which on something learns",
                got=f"{self.first_layer}, after which there are no weights but those of batch norm",
                advice="name one further down",
            )
        self.n_weights = int(cut.count_params())
        self.n_learning = sum(int(np.prod(weight.shape)) for weight in self._upper.trainable_weights)
        # Loss and head are computed in float32, whatever the network's precision is.
        self._head = keras.layers.Dense(self.n_classes, dtype="float32", name="head")
        self._model = keras.Model(self._upper.inputs, self._head(self._upper.output))
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=self._finetune.label_smoothing, dtype="float32"
        )
        weights = self._model.trainable_variables
        ordered = [rates.get(weight.path, 1.0) for weight in weights]
        self._optimizer = make_optimizer(keras, ordered, self._finetune.weight_decay)
        self._optimizer.build(weights)
        self._model.compile(self._optimizer, loss, weighted_metrics=["accuracy"], jit_compile=choose_compilation())

    def compute_crossing(self, images: Iterable[np.ndarray]) -> Iterator[Crossing]:
        """Yield what crosses the cut for prepared images, `batch_size` of them at a time, as float32."""
        stacked = (self.stack_images(group) for group in group_items(images, self.batch_size))
        for batch, n_images in prefetch(stacked, 2):
            with name_failure("extract.batch_size", self.batch_size):
                computed = self._lower.predict_on_batch(batch)
            parts = computed if isinstance(computed, list) else [computed]
            yield [np.asarray(part, np.float32)[:n_images] for part in parts]

    def compute_features(self, crossing: Crossing) -> np.ndarray:
        """Return the features of at most `batch_size` images, (images, n_features) float32."""
        n_images = len(crossing[0])
        with name_failure("extract.batch_size", self.batch_size):
            computed = self._upper.predict_on_batch([_fill(part, self.batch_size) for part in crossing])
        return np.asarray(computed, np.float32)[:n_images]

    def compute_logits(self, features: np.ndarray) -> np.ndarray:
        """Return the logits of the network's own head, (images, n_classes) float64."""
        weights, biases = (np.asarray(weight, np.float64) for weight in self._head.get_weights())
        logits: np.ndarray = features @ weights + biases
        return logits

    def set_head(self, weights: np.ndarray, biases: np.ndarray) -> None:
        """Give the network's own head weights (n_features, n_classes) and biases (n_classes,)."""
        self._head.set_weights([weights.astype(np.float32), biases.astype(np.float32)])

    def train_batch(self, crossing: Crossing, labels: np.ndarray, rate: float) -> Result:
        """Take one step on at most `finetune.batch_size` images, at this share of the learning rate.

        A shorter batch is filled up with images of weight 0, so that every step has one shape.
        """
        size, n_images = self._finetune.batch_size, len(labels)
        wanted = np.zeros((size, self.n_classes), np.float32)
        wanted[np.arange(n_images), labels] = 1
        weights = np.zeros(size, np.float32)
        weights[:n_images] = size / n_images  # the loss is divided by the size of the batch
        self._optimizer.learning_rate.assign(rate * self._finetune.head_learning_rate)
        self._model.reset_metrics()
        with name_failure("finetune.batch_size", size):
            loss, accuracy = self._model.train_on_batch([_fill(part, size) for part in crossing], wanted, weights)
        return Result(float(loss), float(accuracy))

    def read_state(self) -> list[np.ndarray]:
        """Return all that a step changes: the weights that learn, the states of dropout, the optimizer's variables."""
        return [np.array(variable) for variable in self._list_state()]

    def write_state(self, values: Sequence[np.ndarray]) -> None:
        """Set what `read_state` returned."""
        for variable, value in zip(self._list_state(), values, strict=True):
            variable.assign(value)

    def _list_state(self) -> list[Any]:
        held = {id(weight) for weight in self._model.non_trainable_weights}
        changing = [variable for variable in self._model.variables if id(variable) not in held]
        return [*changing, *self._optimizer.variables]

    def read_weights(self) -> list[np.ndarray]:
        """Return the weights that learn, the head's last."""
        return [np.array(weight) for weight in self._model.trainable_weights]

    def write_weights(self, values: Sequence[np.ndarray]) -> None:
        """Set what `read_weights` returned."""
        for weight, value in zip(self._model.trainable_weights, values, strict=True):
            weight.assign(value)

    def save_weights(self, path: Path) -> None:
        """Write the weights of the whole network, also beyond `extract.layer`: a file for `extract.weights`.

        What keras writes also names every layer, and a name may count how many networks were built before.
        """
        import h5py

        def _copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                target.create_dataset(name, data=item[()])

        with TemporaryDirectory(dir=path.parent) as folder:
            plain = Path(folder) / "plain.weights.h5"
            self._whole.save_weights(plain)
            with h5py.File(plain) as source, h5py.File(path, "w") as target:
                source.visititems(_copy)


def _fill(part: np.ndarray, n_images: int) -> np.ndarray:
    """Return an array of `n_images` rows, filled up with zeros."""
    if len(part) == n_images:
        return part
    filled = np.zeros((n_images, *part.shape[1:]), part.dtype)
    filled[: len(part)] = part
    return filled
