"""What CIFAR-10 is (Krizhevsky 2009, "Learning multiple layers of features from tiny images")."""

from pathlib import Path

ARRAYS = Path("data/cifar10.npz")
# In the order of its numbers.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N_IMAGES = {"train": 50_000, "test": 10_000}
