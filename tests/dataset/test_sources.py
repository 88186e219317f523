import pytest

from relearn.dataset import sources
from relearn.dataset.sources import iterate_source, read_source_file
from relearn.errors import SourceError
from sources import FILES, read_all, write_zip


def test_folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert read_all(tmp_path) == FILES


def test_links_in_folders(tmp_path):
    source = tmp_path / "source"
    (source / "real").mkdir(parents=True)
    (source / "real" / "image.png").write_bytes(b"image")
    (tmp_path / "elsewhere.png").write_bytes(b"elsewhere")
    (source / "linked.png").symlink_to("real/image.png")
    (source / "linked twice.png").symlink_to(source / "linked.png")
    (source / "leaving.png").symlink_to(tmp_path / "elsewhere.png")
    (source / "leaving in void.png").symlink_to(tmp_path / "nowhere")
    (source / "broken.png").symlink_to("nowhere")
    (source / "circle.png").symlink_to("circle.png")
    (source / "loop").symlink_to(source)
    assert read_all(source) == {
        "real/image.png": b"image",
        "linked.png": b"image",
        "linked twice.png": b"image",
        "leaving.png": "link that leaves the source; put the file itself in its place",
        "leaving in void.png": "link that leaves the source; put the file itself in its place",
        "broken.png": "cannot be read: No such file or directory",
        "circle.png": "cannot be read: Too many levels of symbolic links",
        "loop": "link to a folder, not followed",
    }


def test_source_may_itself_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.png").write_bytes(b"image")
    (tmp_path / "real" / "2.png").symlink_to("1.png")
    (tmp_path / "source").symlink_to("real")
    assert read_all(tmp_path / "source") == {"1.png": b"image", "2.png": b"image"}


@pytest.mark.parametrize(
    ("place", "is_read"),
    [
        (".dvc/cache/files/md5/0f/" + "a" * 30, True),
        ("elsewhere/files/md5/0f/" + "a" * 30, True),
        (".dvc/cache/files/md5/0f/" + "a" * 30 + ".dir", False),
        (".dvc/cache/files/md5/0f/" + "a" * 29, False),
        (".dvc/cache/files/md5/0F/" + "a" * 30, False),
        (".dvc/config.local", False),
    ],
)
def test_links_into_a_dvc_cache_are_read(tmp_path, place, is_read):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(b"image")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "1.png").symlink_to(tmp_path / place)
    reason = "link that leaves the source; put the file itself in its place"
    assert read_all(tmp_path / "source") == {"1.png": b"image" if is_read else reason}


@pytest.mark.parametrize(
    "name", ["Screenshot 3.45.12\u202fPM.png", "a\u00a0b.png", "\u3000全角.png", "👩\u200d🔬.png", " .png"]
)
def test_unusual_names_are_names(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert read_all(tmp_path) == {name: b"x"}


def test_what_is_no_source(tmp_path):
    with pytest.raises(SourceError, match=r"nothing: no such file or folder; put the images there, or set restructure"):
        list(iterate_source(tmp_path / "nothing"))
    (tmp_path / "text").write_text("text")
    with pytest.raises(SourceError, match=r"text: wanted a folder, a \.zip or a \.tar"):
        list(iterate_source(tmp_path / "text"))


def test_one_file(tmp_path):
    write_zip(tmp_path / "a.zip", FILES.items())
    assert read_source_file(tmp_path / "a.zip", "a/1.png") == b"one"
    with pytest.raises(SourceError, match=r"wanted labels\.csv in it, got no such file"):
        read_source_file(tmp_path / "a.zip", "labels.csv")


def test_locale_that_would_misread_names_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "caf\u00e9.png").write_bytes(b"x")
    monkeypatch.setattr(sources.sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(
        SourceError, match="wanted names of files in UTF-8, got iso8859-1 from the locale; set PYTHONUTF8"
    ):
        read_all(tmp_path)
