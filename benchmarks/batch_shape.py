"""How far features move when extract.batch_size changes, and whether they do at all otherwise.

The same images go through a network in batches of several sizes, in another order, and once more; the features are
compared with those of the first size, bit by bit and by their greatest relative difference a row.

Usage: python benchmarks/batch_shape.py IMAGES_FOLDER [N_IMAGES] [MOBILENET_V2_WEIGHTS]
"""

import sys
from pathlib import Path

import numpy as np

from relearn.images.decoding import decode_image
from relearn.networks.extractor import Extractor
from relearn.params.pipeline import read_params
from relearn.storage.files import hash_file

SIZES = (32, 1, 8, 16, 64)


def main() -> None:
    """Print a row a network and batch size."""
    root = Path(__file__).parent.parent
    params = read_params(root / "params.yaml").extract
    folder, n_images, weights = Path(sys.argv[1]), int((sys.argv[2:] or ["48"])[0]), (sys.argv[3:] or [None])[0]
    files = sorted(path for path in folder.rglob("*") if path.suffix == ".jpg")[:n_images]
    for network in ("vgg16", "mobilenet_v2", "resnet50"):
        settings = {"network": network, "layer": None, "pooling": "avg", "image_size_px": 224}
        own = weights if network == "mobilenet_v2" else None
        settings |= {"weights": own or "random", "weights_sha256": hash_file(Path(own)) if own else None}
        base = params.model_copy(update=settings)
        reference = None
        for batch_size in SIZES:
            extractor = Extractor(base.model_copy(update={"batch_size": batch_size}))
            prepared = [extractor.prepare_image(decode_image(path.read_bytes()).rgb) for path in files]
            features = compute(extractor, prepared, range(len(files)))
            reference = features if reference is None else reference
            again = compute(extractor, prepared, np.random.default_rng(0).permutation(len(files)))
            moved = np.abs(features - reference).max(axis=1) / np.abs(reference).max(axis=1)
            print(
                f"{network:13} batch {batch_size:3}: equal to batch {SIZES[0]}: {np.mean(features == reference):6.1%} "
                f"of numbers, greatest relative move {moved.max():.1e}; in another order: "
                f"{'same bits' if np.array_equal(features, again) else 'OTHER BITS'}",
                flush=True,
            )


def compute(extractor: Extractor, prepared: list[np.ndarray], order: "range | np.ndarray") -> np.ndarray:
    """Return the features in the order of `prepared`, computed in another."""
    rows = list(extractor.compute_rows(prepared[image] for image in order))
    features = np.empty((len(rows), extractor.n_features), np.float32)
    features[list(order)] = rows
    return features


if __name__ == "__main__":
    main()
