import hashlib
import io
import logging
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from conftest import draw_image, encode_image, list_dataset, read_results, restructure, write_images
from near_data import draw_scene
from relearn import paths
from relearn.dataset.manifest import hash_tables
from relearn.errors import SourceError
from relearn.images.decoding import decode_image
from relearn.images.fingerprints import compute_fingerprint, read_hashes
from relearn.storage.files import hash_file, read_csv, read_json


def test_manifest_says_what_the_files_are(use_layout):
    use_layout(layout="split_class_folders")
    Path("source/training/cat").mkdir(parents=True)
    content = encode_image(draw_image(0, (9, 7), "L"), "BMP")
    Path("source/training/cat/wrong-name.png").write_bytes(content)
    Path("source/validation/cat").mkdir(parents=True)
    Path("source/validation/cat/x.jpg").write_bytes(encode_image(draw_image(1), "JPEG"))
    kept, _ = restructure()
    row = kept["training/cat/wrong-name.png"]
    assert row.sha256 == hashlib.sha256(content).hexdigest()
    assert row[4:] == (len(content), 9, 7, "L", "BMP")
    assert (paths.DATASET / row.path).read_bytes() == content


@pytest.mark.parametrize("source", [".", "data", "data/dataset", "data/dataset/training"])
def test_source_must_stand_apart_from_what_is_written(use_layout, source):
    write_images(Path("data/dataset/training"), ["cat/1.png"])
    use_layout(layout="class_folders", source=source)
    with pytest.raises(SourceError, match=r"wanted a source apart from data/dataset, which this stage writes, got"):
        restructure()
    assert Path("data/dataset/training/cat/1.png").exists()


def test_what_is_no_image_is_excluded_with_the_reason(use_layout):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["cat/good.png"])
    for name, content in {
        "cat/empty.png": b"",
        "cat/notes.txt": b"text",
        "cat/.hidden.png": encode_image(draw_image(1)),
        ".cache/cat/x.png": encode_image(draw_image(1)),
        "__MACOSX/cat/._x.png": encode_image(draw_image(1)),
        "@eaDir/x.png/SYNOPHOTO_THUMB_M.jpg": encode_image(draw_image(1)),
        "cat/@eaDir/x.png": encode_image(draw_image(1)),
        "$Recycle.Bin/S-1-5/x.png": encode_image(draw_image(1)),
        "System Volume Information/x.png": encode_image(draw_image(1)),
        "lost+found/x.png": encode_image(draw_image(1)),
        "#recycle/x.png": encode_image(draw_image(1)),
        "cat/Thumbs.db": b"x",
        "cat/desktop.ini": b"x",
        "cat/.DS_Store": b"x",
        "cat/cut.jpg": encode_image(draw_image(1), "JPEG")[:-20],
    }.items():
        Path("source", name).parent.mkdir(parents=True, exist_ok=True)
        Path("source", name).write_bytes(content)
    kept, excluded = restructure()
    assert len(kept) == 1
    assert excluded.pop("cat/cut.jpg").startswith("damaged JPEG file: ")
    assert excluded == {
        "cat/empty.png": "empty file",
        "cat/notes.txt": "not an image (AVIF, BMP, GIF, HEIC, JPEG, PNG, TIFF, WEBP are read)",
        "cat/.hidden.png": "hidden file",
        ".cache/cat/x.png": "hidden file",
        "__MACOSX/cat/._x.png": "system file: __MACOSX",
        "@eaDir/x.png/SYNOPHOTO_THUMB_M.jpg": "system file: @eaDir",
        "cat/@eaDir/x.png": "system file: @eaDir",
        "$Recycle.Bin/S-1-5/x.png": "system file: $Recycle.Bin",
        "System Volume Information/x.png": "system file: System Volume Information",
        "lost+found/x.png": "system file: lost+found",
        "#recycle/x.png": "system file: #recycle",
        "cat/Thumbs.db": "system file: Thumbs.db",
        "cat/desktop.ini": "system file: desktop.ini",
        "cat/.DS_Store": "hidden file",
    }


def test_folder_zip_and_tar_give_the_same_bytes(use_layout, set_params):
    use_layout(layout="class_folders")
    write_images(Path("source"), [f"{label}/{n}.png" for label in "ab" for n in range(20)])
    Path("source/a/notes.txt").write_text("text")
    files = sorted(path for path in Path("source").rglob("*") if path.is_file())
    with zipfile.ZipFile("source.zip", "w") as archive, tarfile.open("source.tar.gz", "w:gz") as tar:
        for path in files[::-1]:
            archive.write(path, path.relative_to("source"))
        random.Random(1).shuffle(files)
        for path in files:
            tar.add(path, path.relative_to("source"))
    results = set()
    for source in ("source", "source.zip", "source.tar.gz"):
        set_params({"restructure.source": source})
        restructure()
        results.add((paths.MANIFEST.read_bytes(), paths.EXCLUDED.read_bytes(), tuple(list_dataset())))
    assert len(results) == 1


def test_truncated_archive_leaves_the_old_data_set(use_layout, set_params):
    use_layout(layout="class_folders")
    write_images(Path("source"), [f"a/{n}.png" for n in range(5)])
    restructure()
    before = list_dataset()
    with tarfile.open("half.tar", "w") as tar:
        tar.add("source", ".")
    content = Path("half.tar").read_bytes()
    Path("half.tar").write_bytes(content[: len(content) // 2 - 700])
    set_params({"restructure.source": "half.tar"})
    with pytest.raises(SourceError, match=r"half\.tar: damaged archive"):
        restructure()
    assert list_dataset() == before
    assert not list(Path("data").glob(".*"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "source: wanted images, got no file at all; put images there, or set restructure.source"),
        (["1.png"], "got none in 1 file .does not fit the layout: 1., for example 1.png: does not fit the layout"),
        ([".x/a/1.png"], "got none in 1 file .hidden file: 1., for example"),
        ([".x", "1.png", "2.png"], "got none in 3 files .*for example 1.png: does not fit the layout"),
    ],
)
def test_no_image_left(use_layout, names, message):
    use_layout(layout="class_folders")
    Path("source").mkdir()
    write_images(Path("source"), names)
    with pytest.raises(SourceError, match=message):
        restructure()
    assert not paths.DATASET.exists()


def test_summary_counts_what_was_found(use_layout, caplog):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["a/1.png", "a/2.png", "b/3.png"])
    Path("source/b/x.txt").write_text("text")
    Path("source/b/y.txt").write_text("")
    with caplog.at_level(logging.INFO, "relearn"):
        restructure()
    assert "source: 3 images kept" in caplog.text
    assert "of 2 classes" in caplog.text
    assert "2 files excluded, listed in data/excluded.csv; empty file: 1, not an image (AVIF, BMP, " in caplog.text


def test_zip_members_are_decoded_like_files(use_layout, set_params):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/1.png", encode_image(draw_image(1)))
        archive.writestr("../a/2.png", encode_image(draw_image(2)))
    Path("a.zip").write_bytes(buffer.getvalue())
    use_layout(layout="class_folders", source="a.zip")
    kept, excluded = restructure()
    assert len(kept) == 1
    assert excluded == {"../a/2.png": "name points outside the archive"}
    assert not Path("a").exists()


def test_source_details_and_hashes_are_in_the_order_of_the_manifest(use_layout):
    use_layout(layout="split_class_folders")
    names = [f"{split}/{label}/{n}.png" for split in ("training", "evaluation") for label in "ab" for n in range(4)]
    for seed, name in enumerate(names):
        Path("source", name).parent.mkdir(parents=True, exist_ok=True)
        Path("source", name).write_bytes(encode_image(draw_image(seed, (40, 30))))
    Path("source/training/a/flat.png").write_bytes(encode_image(Image.new("RGB", (40, 30), "red")))
    kept, _ = restructure()
    details = read_csv(paths.SIGHTINGS, ("path", "source_path", "contrast"))
    assert [row[0] for row in details] == list(kept)
    hashes = read_hashes(paths.HASHES)
    for (_, source_path, contrast), row in zip(details, hashes, strict=True):
        found = compute_fingerprint(decode_image(Path("source", source_path).read_bytes()).rgb)
        assert (float(contrast), row.tobytes()) == (found.contrast, found.hashes or bytes(row.size))
    assert read_json(paths.SOURCE) == {"source": "source", "n_files": 17, "lost_classes": {}, **hash_tables()}
    assert read_json(paths.SOURCE)["hashes_sha256"] == hash_file(paths.HASHES)


def test_images_above_the_limit_of_pixels_are_excluded(use_layout, set_params):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["cat/1.png", "dog/1.png"])
    Path("source/cat/wide.png").write_bytes(encode_image(draw_image(1, (2000, 1001))))
    set_params({"restructure.max_megapixels": 2})
    assert restructure()[1] == {"cat/wide.png": "too large: 2000 x 1001 px, at most 2,000,000 pixels are read"}
    set_params({"restructure.max_megapixels": 3})
    assert restructure()[1] == {}


@pytest.mark.parametrize("stratify", [False, True])
def test_near_duplicates_are_not_cut_apart(use_layout, stratify):
    for number in range(12):
        scene = draw_scene(number, (160, 120))
        for name, image in (("a", scene), ("b", scene.resize((120, 90)))):
            path = Path(f"source/cat/{number}{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_image(image))
    n_apart = {}
    for group_by in ("none", "near_duplicates"):
        use_layout(layout="class_folders", stratify=stratify, group_by=group_by)
        paths.SPLITS.unlink(missing_ok=True)
        kept, _ = restructure()
        splits = {row.path.split("/")[-1]: row.split for row in kept.values()}
        n_apart[group_by] = sum(splits[f"{number}a.png"] != splits[f"{number}b.png"] for number in range(12))
        results = read_results()
        restructure()
        assert read_results() == results
    assert n_apart["none"] > 3
    assert n_apart["near_duplicates"] == 0
    digits = {row.split(",")[2] for row in paths.SPLITS.read_text().splitlines()[1:]}
    assert len(digits) == 12
