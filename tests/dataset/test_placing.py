import hashlib
import shutil
from pathlib import Path

import pytest

from conftest import draw_image, encode_image, list_dataset, read_results, restructure, write_images
from relearn import paths
from relearn.dataset import placing
from relearn.dataset.inspections import Inspection
from relearn.dataset.placing import Spool, name_images
from relearn.dataset.splitting import SourceImage
from relearn.dataset.stamps import read_stamp
from relearn.errors import SourceError


def test_names_that_a_file_system_may_take_for_one_keep_apart(use_layout):
    use_layout(layout="split_class_folders")
    names = ["training/a/x/caf\u00e9.png", "training/a/y/cafe\u0301.png", "training/a/z/CAF\u00c9.png"]
    write_images(Path("source"), names)
    kept, _ = restructure()
    assert len({path.split("/")[-1][-12:-4] for path in kept}) == 3
    assert all("~" in path for path in kept)


def test_files_of_one_name_keep_apart(use_layout):
    use_layout(layout="split_class_folders")
    write_images(Path("source"), ["training/a/x/1.png", "training/a/y/1.png", "training/a/z/1.PNG", "training/a/2.png"])
    write_images(Path("source"), ["validation/a/3.png"], 50)
    kept, _ = restructure()
    assert len(list_dataset()) == len(kept) == 5
    assert "training/a/2.png" in kept
    assert sum("~" in path for path in kept) == 3
    for path, row in kept.items():
        assert hashlib.sha256((paths.DATASET / path).read_bytes()).hexdigest() == row.sha256


def test_names_do_not_depend_on_order_and_fit_a_file_system():
    name = "é" * 120 + ".png"
    images = [SourceImage(f"training/a/{folder}/{name}", "training", "a", Inspection("0" * 64, 1)) for folder in "xyz"]
    rows = name_images(images)
    assert {row.path for row, _ in rows} == {row.path for row, _ in name_images(images[::-1])}
    assert max(len(Path(row.path).name.encode()) for row, _ in rows) <= 255
    ((row, _),) = name_images([images[0]._replace(path=f"training/a/{'x' * 300}.png")])
    assert len(Path(row.path).name) < 100


def test_names_that_imitate_unique_ones_overwrite_nothing(use_layout):
    """The last name is the one that `training/a/x/1.png` gets, because it shares its own with `training/a/y/1.png`."""
    use_layout(layout="split_class_folders")
    made = f"1~{hashlib.sha256(b'training/a/x/1.png').hexdigest()[:8]}.png"
    names = ["x/1.png", "y/1.png", f"z/{made}", f"z/{made.upper()}"]
    write_images(Path("source"), [f"training/a/{name}" for name in names])
    kept, excluded = restructure()
    assert excluded == {}
    assert len(kept) == len({path.casefold() for path in kept}) == len(list_dataset()) == 4
    for path, row in kept.items():
        assert hashlib.sha256((paths.DATASET / path).read_bytes()).hexdigest() == row.sha256


COLLIDING = "a/3604/x.png", "a/51430/x.png"


def test_names_are_unique_where_the_digits_of_a_hash_are_the_same():
    """These two paths were found by search: the first eight digits of their hashes are the same."""
    first, second = COLLIDING
    assert hashlib.sha256(first.encode()).hexdigest()[:8] == hashlib.sha256(second.encode()).hexdigest()[:8]
    images = [SourceImage(path, "training", "a", Inspection("0" * 64, 1)) for path in (first, second, "a/x.png")]
    rows = {row.path for row, _ in name_images(images)}
    assert rows == {row.path for row, _ in name_images(images[::-1])}
    assert len({path.casefold() for path in rows}) == 3
    long_name = "\U0001f600" * 60 + "." + "\U0001f600" * 9
    images = [image._replace(path=str(Path(image.path).with_name(long_name))) for image in images]
    assert max(len(Path(row.path).name.encode()) for row, _ in name_images(images)) <= 255


def test_path_that_is_there_twice_is_refused():
    images = [SourceImage("a/1.png", "training", "a", Inspection("0" * 64, 1))] * 2
    with pytest.raises(SourceError, match=r"^a/1\.png: found twice in the source, under names that look the same"):
        name_images(images)


def test_file_that_changes_while_it_is_copied_is_an_error(use_layout, settled, monkeypatch):
    use_layout(layout="class_folders")
    write_images(Path("source"), ["a/1.png", "b/2.png"])
    restructure()
    copyfile = shutil.copyfile

    def copy_and_change(source, target):
        copyfile(source, target)
        Path(source).write_bytes(encode_image(draw_image(9)))

    monkeypatch.setattr(placing.shutil, "copyfile", copy_and_change)
    before = read_results()
    with pytest.raises(SourceError, match=r"source/[ab]/[12]\.png: changed while it was copied; run `dvc repro` when"):
        restructure()
    assert read_results() == before


def test_known_files_that_vanish_while_they_are_copied_are_an_error(forty, settled, monkeypatch):
    restructure()
    before = read_results()
    copyfile = shutil.copyfile

    def copy_and_rename(source, target):
        if Path("source/d").exists():
            Path("source/d").rename("elsewhere")
        return copyfile(source, target)

    monkeypatch.setattr(placing.shutil, "copyfile", copy_and_rename)
    with pytest.raises(
        SourceError, match=r"source/d/\d\.png: changed while it was copied|source: changed while it was"
    ):
        restructure()
    assert read_results() == before


def test_bytes_of_an_image_are_those_that_were_inspected(workspace):
    Path("kept.png").write_bytes(b"unread")
    hashes = [hashlib.sha256(content).hexdigest() for content in (b"read", b"unread")]
    spool = Spool(Path("spool"))
    spool.add_content(hashes[0], b"read")
    spool.add_file(hashes[1], Path("kept.png"), read_stamp(Path("kept.png")))
    assert [spool.read_content(sha256) for sha256 in hashes] == [b"read", b"unread"]
    Path("kept.png").write_bytes(b"changed")
    with pytest.raises(SourceError, match=r"kept\.png: changed while it was read; run `dvc repro` when nobody"):
        spool.read_content(hashes[1])
    Path("kept.png").unlink()
    with pytest.raises(SourceError, match=r"kept\.png: changed while it was read"):
        spool.read_content(hashes[1])
