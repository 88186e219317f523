"""The protocol by which the upper part of a network is trained."""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relearn.dataset.manifest import ManifestRow
from relearn.errors import ParamsError, TrainingError
from relearn.evaluation.paired import Paired, compare_paired
from relearn.features.views import Input
from relearn.finetuning.activations import Activations, check_room, find_activations, iterate_crossing
from relearn.finetuning.exact_head import (
    MIDDLE_C,
    ExactHead,
    Labeled,
    fit_exact_head_below,
    fold_standardization,
    search_exact_head,
)
from relearn.finetuning.network import Crossing, Result, TunableNetwork
from relearn.finetuning.progress import Epoch, Progress, write_progress
from relearn.finetuning.schedule import choose_view, compute_rate, order_images
from relearn.networks.reading import group_items
from relearn.params.augmentation import AugmentParams
from relearn.params.finetuning import FinetuneParams

log = logging.getLogger(__name__)

SAVE_SECONDS = 120.0  # how long an epoch runs before it is saved where it stands


class Tuned(NamedTuple):
    """What a training ends with.

    history : the epochs
    best_epoch : the number of the one whose weights the network has now, from 1
    pretrained, tuned : the exact heads on the features before the first epoch and after the best one
    paired : both on the validation split
    n_images_below : how many images and views went through the part that stays as it is
    """

    history: list[Epoch]
    best_epoch: int
    pretrained: ExactHead
    tuned: ExactHead
    paired: Paired
    n_images_below: int


class Images:
    """The images of training and validation, and their rows of activations: of each image its own, then its views."""

    def __init__(self, manifest: Sequence[ManifestRow], n_views: int, augment: AugmentParams) -> None:
        self.training = [row for row in manifest if row.split == "training"]
        self.validation = [row for row in manifest if row.split == "validation"]
        self.classes = sorted({row.label for row in self.training})
        self.n_views, self.augment = n_views, augment
        self.training_labels = np.searchsorted(self.classes, [row.label for row in self.training])
        self.validation_labels = np.searchsorted(self.classes, [row.label for row in self.validation])

    def list_inputs(self) -> list[Input]:
        """Return what the rows are computed from, in their order."""
        inputs = []
        for row in self.training:
            inputs += [Input(row), *(Input(row, number, self.augment) for number in range(1, self.n_views + 1))]
        return inputs + [Input(row) for row in self.validation]

    @property
    def training_rows(self) -> np.ndarray:
        """The rows of the training images themselves."""
        return np.arange(len(self.training)) * (1 + self.n_views)

    @property
    def validation_rows(self) -> np.ndarray:
        """The rows of the validation images."""
        return len(self.training) * (1 + self.n_views) + np.arange(len(self.validation))


def plan_views(params: FinetuneParams, augment: AugmentParams) -> int | None:
    """Return how many cached views an image has, or None if each epoch has fresh ones.

    Raises
    ------
    ParamsError
        There should be views, and nothing by which they differ from their image.
    """
    if augment.is_off and params.views:
        raise ParamsError(
            where="augment",
            wanted=f"at least one option that is on, for {params.views} views of each training image",
            got="none",
            advice="turn something on, such as augment.horizontal_flip: 0.5, or set finetune.views to 0",
        )
    return 0 if augment.is_off else params.views


class Training:
    """A network, its images, and what the epochs are made of."""

    def __init__(
        self, network: TunableNetwork, images: Images, params: FinetuneParams, is_fresh: bool, folder: Path
    ) -> None:
        self._network, self._images, self._params, self._is_fresh = network, images, params, is_fresh
        self._folder = folder
        inputs = images.list_inputs()
        check_room(network, len(inputs), params.activations_gb, folder)
        self._activations: Activations = find_activations(network, inputs, folder / "activations")
        self._n_steps = -(-len(images.training) // params.batch_size)  # of an epoch
        self._splits: tuple[Labeled, Labeled] | None = None  # the last features, until a head is fitted to its optimum

    def run(self, progress: Progress) -> Tuned:
        """Train from where `progress` stands until the last epoch, or until `patience` of them bring nothing.

        The network has the weights of the best epoch then.

        1. The network's own head begins as the exact head on the features of the pretrained network. From a random
           head the first gradients would distort the features (Kumar et al. 2022, "Fine-tuning can distort pretrained
           features and underperform out-of-distribution").
        2. After each epoch the exact head is fitted on the new features, because it is the head that will be used.
           The epoch of its lowest validation loss is the best.
        3. Both networks are compared on the validation split, each with its exact head.

        Raises
        ------
        TrainingError
            The loss is not finite.
        """
        pretrained = self._fit_head()
        if not progress.state:
            self._network.set_head(*fold_standardization(pretrained.fitted))
            progress = progress._replace(state=self._network.read_state())
        else:
            log.info("finetune: goes on after %d epochs and %d steps", len(progress.history), progress.n_steps)
            self._network.write_state(progress.state)
        while not progress.is_over(self._params.epochs, self._params.patience):
            progress = self._train_epoch(progress, pretrained.C)
            write_progress(self._folder / "progress", progress)
        best = progress.best_epoch
        if best is not progress.history[-1]:
            self._network.write_weights(progress.best)
            self._splits = None
        tuned = self._fit_head(best.C)
        paired = compare_paired(pretrained.right, tuned.right)
        n_fresh = len(progress.history) * len(self._images.training) if self._is_fresh else 0
        n_below = len(self._images.list_inputs()) + n_fresh
        return Tuned(progress.history, best.epoch, pretrained, tuned, paired, n_below)

    def _train_epoch(self, progress: Progress, C: float) -> Progress:
        """Train for an epoch, and judge the network by the exact head; `C` is that of the pretrained network."""
        number = len(progress.history) + 1
        progress = self._take_steps(progress)
        trained = Result(*(total / len(self._images.training) for total in progress.sums))
        rate = self._compute_rate(number * self._n_steps - 1) * self._params.learning_rate
        training, validation = self._compute_splits()
        last = progress.history[-1].C if progress.history else C
        head = fit_exact_head_below(training, validation, len(self._images.classes), last)
        own = self._judge_own_head(validation)
        self._check_loss(own.loss, number)
        epoch = Epoch(number, rate, *trained, head.log_loss, head.accuracy, *own, head.C)
        log.info(
            "finetune: epoch %d of %d: training loss %.4f, validation loss %.4f, accuracy %.4f (own head %.4f, %.4f)",
            *(number, self._params.epochs, trained.loss, head.log_loss, head.accuracy, own.loss, own.accuracy),
        )
        history, state = [*progress.history, epoch], self._network.read_state()
        done = Progress(progress.limits, history, state, progress.best)
        return done._replace(best=self._network.read_weights()) if done.best_epoch is epoch else done

    def _take_steps(self, progress: Progress) -> Progress:
        """Take the steps that an epoch has left, and save where it stands every `SAVE_SECONDS`.

        What is returned has the sums of the epoch, and the state from before these steps.
        """
        epoch = len(progress.history) + 1
        n_done = progress.n_steps * self._params.batch_size
        order = order_images(len(self._images.training), self._params.seed, epoch)[n_done:]
        labels = self._images.training_labels[order]
        saved = time.monotonic()
        for crossing in self._iterate_batches(order, epoch):
            n_images = len(crossing[0])
            rate = self._compute_rate((epoch - 1) * self._n_steps + progress.n_steps)
            result = self._network.train_batch(crossing, labels[:n_images], rate)
            labels = labels[n_images:]
            self._check_loss(result.loss, epoch)
            loss, n_right = progress.sums
            sums = loss + result.loss * n_images, n_right + result.accuracy * n_images
            progress = progress._replace(n_steps=progress.n_steps + 1, sums=sums)
            if time.monotonic() - saved >= SAVE_SECONDS:
                write_progress(self._folder / "progress", progress._replace(state=self._network.read_state()))
                saved = time.monotonic()
        return progress

    def _compute_rate(self, step: int) -> float:
        """Return the share of the learning rate of a step, counted from 0 over all epochs."""
        n_warmup, n_steps = (round(n * self._n_steps) for n in (self._params.warmup_epochs, self._params.epochs))
        return compute_rate(step, n_steps, n_warmup)

    def _check_loss(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                where="finetune.learning_rate",
                wanted="a finite loss",
                got=f"{loss} in epoch {epoch}",
                advice=f"lower it (it is {self._params.learning_rate:g}), or raise finetune.warmup_epochs",
            )

    def _iterate_batches(self, order: np.ndarray, epoch: int) -> Iterator[Crossing]:
        """Yield what crosses the cut for the training images of an epoch, `finetune.batch_size` of them at a time."""
        images, size = self._images, self._params.batch_size
        if self._is_fresh:
            inputs = [Input(images.training[number], epoch, images.augment) for number in order]
            yield from _regroup(iterate_crossing(self._network, inputs), size)
            return
        views = np.array([choose_view(row.sha256, epoch, images.n_views) for row in images.training])
        rows = (images.training_rows + views)[order]
        for start in range(0, len(rows), size):
            yield self._activations.read(rows[start : start + size])

    def _compute_features(self, rows: np.ndarray) -> np.ndarray:
        size = self._network.batch_size
        starts = range(0, len(rows), size)
        parts = [self._network.compute_features(self._activations.read(rows[s : s + size])) for s in starts]
        return np.concatenate(parts)

    def _compute_splits(self) -> tuple[Labeled, Labeled]:
        """Return the features of training and validation by the network as it is now."""
        images = self._images
        self._splits = None  # two epochs of them need not fit in memory
        training = Labeled(self._compute_features(images.training_rows), images.training_labels)
        validation = Labeled(self._compute_features(images.validation_rows), images.validation_labels)
        for part in (training, validation):
            if not np.isfinite(part.features).all():
                raise TrainingError(
                    where="finetune",
                    wanted="finite features",
                    got="NaN or infinity",
                    advice="lower finetune.learning_rate, or check extract.weights if this is before the first epoch",
                )
        self._splits = training, validation
        return self._splits

    def _fit_head(self, C: float = MIDDLE_C) -> ExactHead:
        """Fit the exact head to the features of the network as it is, which the last epoch may have computed."""
        training, validation = self._splits or self._compute_splits()
        self._splits = None
        return search_exact_head(training, validation, len(self._images.classes), C)

    def _judge_own_head(self, validation: Labeled) -> Result:
        """Return mean loss and accuracy of the network's own head."""
        from scipy.special import log_softmax

        logs = log_softmax(self._network.compute_logits(validation.features), axis=1)
        losses = -logs[np.arange(len(logs)), validation.labels]
        return Result(float(losses.mean()), float((logs.argmax(axis=1) == validation.labels).mean()))


def _regroup(batches: Iterator[Crossing], size: int) -> Iterator[Crossing]:
    """Yield the rows of batches `size` at a time."""
    rows = (row for batch in batches for row in zip(*batch, strict=True))
    for group in group_items(rows, size):
        yield [np.stack(part) for part in zip(*group, strict=True)]
