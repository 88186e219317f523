"""What each step of a training is: its learning rate and its images, as functions of its number alone."""

import hashlib
import math

import numpy as np

from relearn.params.finetuning import FinetuneParams


def compute_rate(step: int, n_steps: int, n_warmup_steps: int) -> float:
    """Return the learning rate of a step, counted from 0, as a share of the highest.

    It rises linearly and falls as half a cosine (Loshchilov and Hutter 2017, "SGDR", equation 5), so that neither the
    first step nor the one after the last is at 0.
    """
    if step < n_warmup_steps:
        return (step + 1) / n_warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup_steps) / max(1, n_steps - n_warmup_steps)))


def order_images(n_images: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the images in an epoch, (n_images,) int64: a permutation."""
    key = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
    return rng.permutation(n_images)


def choose_view(sha256: str, epoch: int, n_views: int) -> int:
    """Return which of an image's rows an epoch takes: 0 is the image itself, then come its views, one after another.

    Images begin at different ones, so that an epoch has about as many of each.
    """
    return (int(sha256[:8], 16) + epoch) % (n_views + 1)


def scale_rates(n_blocks_above: dict[str, int], params: FinetuneParams) -> dict[str, float]:
    """Return the learning rate of each weight of the network, by its path, as a share of the highest of all.

    That of a block is `layer_decay` times that of the next (Howard and Ruder 2018, "ULMFiT", section 3.2).
    """
    share = params.learning_rate / params.head_learning_rate
    return {path: share * params.layer_decay**n_above for path, n_above in n_blocks_above.items()}
