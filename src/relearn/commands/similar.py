"""`relearn similar`: the images of the dataset whose features are the most similar to those of an image."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relearn import paths
from relearn.commands.pictures import Card, Figure, write_pictures
from relearn.dataset.manifest import ManifestRow, read_manifest
from relearn.dataset.source_files import open_source_file
from relearn.errors import ImageError, IntegrityError
from relearn.features.neighbors import Neighbor, find_neighbors
from relearn.features.shards import EXTRACTOR, hash_features, read_image_features
from relearn.images.decoding import decode_image
from relearn.images.thumbnails import draw_picture, encode_picture
from relearn.inference.addresses import hide_secrets, show_name
from relearn.inference.inputs import read_content
from relearn.inference.predictor import build_extractor, find_tuned_weights, read_extractor_record
from relearn.runtime.text import count_nouns, escape_controls
from relearn.storage.files import hash_bytes, read_json

MIN_DIGITS = 6  # of a shortened hash; fewer could be a word


class Similar(NamedTuple):
    """What was asked for, the images of the dataset with the same bytes, and its neighbors.

    name : as it was given
    uri : its picture
    """

    name: str
    uri: str
    same: list[ManifestRow]
    neighbors: list[Neighbor]


def find_similar(name: str, n_neighbors: int, split: str | None = None) -> Similar:
    """Find the neighbors of an image file, or of the image of the dataset with a SHA-256 or the first digits of one.

    The features come from `data/features/` if the image is in the dataset, else the network computes them. The images
    with its very bytes are listed apart; they are no neighbors.

    Raises
    ------
    ImageError
        It cannot be read as an image.
    IntegrityError
        The features are missing or damaged, or several images have these first digits.
    """
    hash_features(paths.FEATURES)
    manifest = read_manifest(paths.MANIFEST)
    sha256, content = _find_hash(name, manifest), b""
    if sha256 is None:
        content = _read_file(name)
        sha256 = hash_bytes(content)
    if same := [row for row in manifest if row.sha256 == sha256]:
        features, uri = read_image_features(paths.FEATURES, sha256), draw_picture(same[0].path)
    else:
        features, uri = compute_features(content), encode_picture(decode_image(content).rgb)
    query = features[np.newaxis]
    (neighbors,) = find_neighbors(paths.FEATURES, manifest, query, n_neighbors, split=split, left_out=[sha256])
    return Similar(name, uri, same, neighbors)


def _find_hash(name: str, manifest: Sequence[ManifestRow]) -> str | None:
    """Return the SHA-256 of the image of the manifest that a name is the hash of, or its first digits; None if none."""
    if not re.fullmatch(f"[0-9a-f]{{{MIN_DIGITS},64}}", name.lower()) or Path(name).is_file():
        return None
    found = {row.sha256 for row in manifest if row.sha256.startswith(name.lower())}
    if len(found) > 1:
        got = count_nouns(len(found), "image")
        raise IntegrityError(where=name, wanted="the first digits of one SHA-256", got=got, advice="write more of them")
    return found.pop() if found else None


def _read_file(name: str) -> bytes:
    """Return the bytes of an image file after decoding them, so that an error names the file."""
    try:
        content = read_content(open_source_file(Path(name), name))
        decode_image(content)
    except ImageError as error:
        raise ImageError(str(error), where=hide_secrets(name)) from None
    return content


def compute_features(content: bytes) -> np.ndarray:
    """Compute the features of an image file by the network of `data/features/`, (n_features,).

    Raises
    ------
    RelearnError
        The network cannot be built as it was.
    """
    record = read_extractor_record(paths.FEATURES, read_json(paths.FEATURES / EXTRACTOR), EXTRACTOR)
    extractor = build_extractor(record, find_tuned_weights(paths.FEATURES))
    return np.asarray(extractor.compute_features([extractor.read_image(content)])[0])


def describe_similar(similar: Similar) -> list[str]:
    """Return a line for each image of the same bytes, and one for each neighbor: path, label, split, similarity."""
    found = [
        *((row, "the same") for row in similar.same),
        *((row, f"{cosine:.4f}") for row, cosine in similar.neighbors),
    ]
    cells = [(text, escape_controls(row.path), escape_controls(row.label), row.split) for row, text in found]
    width = max((len(path) for _, path, _, _ in cells), default=0)
    label_width = max((len(label) for _, _, label, _ in cells), default=0)
    return [f"{text:>8}  {path:{width}}  {label:{label_width}}  {split}" for text, path, label, split in cells]


def write_similar(path: Path, similar: Similar) -> None:
    """Write the page: the image, and its neighbors with their labels."""
    same = [f"the same as {row.path}, {row.label}, {row.split}" for row in similar.same]
    figures = [Figure(similar.uri, "the image that was asked for", ["asked for", *same])]
    figures += [
        Figure(draw_picture(row.path), f"an image of {row.label}", [f"{row.label}  {cosine:.4f}", row.path, row.split])
        for row, cosine in similar.neighbors
    ]
    title = f"{count_nouns(len(similar.neighbors), 'similar image')}"
    texts = [
        "The first picture is the image that was asked for. The others are the images of the dataset whose features "
        "are the most similar to its features: 1 is the same direction, 0 is a right angle."
    ]
    write_pictures(path, title, texts, [Card(show_name(similar.name), "", figures)])
