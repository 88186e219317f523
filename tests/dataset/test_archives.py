import random
import struct
import sys
import tarfile
import zipfile
import zlib

import pytest

from relearn.dataset import source_files
from relearn.dataset.source_files import Walk
from relearn.dataset.sources import iterate_source, read_source_file
from relearn.errors import SourceError
from sources import FILES, read_all, write_tar, write_zip


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip(tmp_path, compression):
    write_zip(tmp_path / "a.zip", FILES.items(), compression=compression)
    assert read_all(tmp_path / "a.zip") == FILES


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar(tmp_path, mode):
    write_tar(tmp_path / "a.tar", FILES.items(), mode)
    assert read_all(tmp_path / "a.tar") == FILES


def test_archives_point_nowhere(tmp_path):
    names = ["../up.png", "/etc/absolute.png", "a/../../up.png", "good.png"]
    write_zip(tmp_path / "a.zip", [(name, b"x") for name in names])
    write_tar(tmp_path / "a.tar", [(name, b"x") for name in names])
    for archive in ("a.zip", "a.tar"):
        found = read_all(tmp_path / archive)
        assert found.pop("good.png") == b"x"
        assert set(found.values()) == {"name points outside the archive"}
        assert len(found) == 3


def test_second_member_of_a_name_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.png", b"first"), ("a.png", b"second")])
    files = list(iterate_source(tmp_path / "a.tar"))
    assert [file.refusal for file in files] == [None, "second member of this name in the archive"]


def test_links_in_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{kind!r}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    info = zipfile.ZipInfo("link.png")
    info.external_attr = 0o120777 << 16
    write_zip(tmp_path / "a.zip", [(info, b"/etc/passwd")])
    for archive, n_links in (("a.tar", 3), ("a.zip", 1)):
        assert list(read_all(tmp_path / archive).values()) == ["a link or a device, not a file"] * n_links


def test_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    write_zip(tmp_path / "inner.zip", [("inner.png", b"inner")])
    inner = (tmp_path / "inner.zip").read_bytes()
    write_tar(tmp_path / "a.tar", [*FILES.items(), ("zz.zip", inner)])
    assert read_all(tmp_path / "a.tar") == FILES | {"zz.zip": inner}


def test_names_of_members_are_plain(tmp_path):
    write_tar(tmp_path / "a.tar", [("./a/1.png", b"x"), ("b//2.png", b"y")])
    assert read_all(tmp_path / "a.tar") == {"a/1.png": b"x", "b/2.png": b"y"}


def test_too_large_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(source_files, "MAX_BYTES", 10)
    contents = {"x.png": b"x" * 100, "y.png": b"y" * 10}
    (tmp_path / "folder").mkdir()
    for name, content in contents.items():
        (tmp_path / "folder" / name).write_bytes(content)
    write_zip(tmp_path / "a.zip", contents.items())
    write_tar(tmp_path / "a.tar", contents.items())
    for source in ("folder", "a.zip", "a.tar"):
        assert read_all(tmp_path / source) == {
            "x.png": "too large: 100 bytes, at most 10 are read",
            "y.png": b"y" * 10,
        }


def test_damaged_lzma_is_reported(tmp_path):
    noise = random.Random(0).randbytes(50_000)
    write_tar(tmp_path / "a.tar.xz", [("a.png", noise), ("b.png", noise[::-1])], "w:xz")
    write_zip(tmp_path / "a.zip", [("a.png", noise)], compression=zipfile.ZIP_LZMA)
    for name in ("a.tar.xz", "a.zip"):
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.tar\.xz: damaged archive: "):
        list(iterate_source(tmp_path / "a.tar.xz"))
    with pytest.raises(SourceError, match=r"a\.png: cannot be read: "):
        read_source_file(tmp_path / "a.zip", "a.png")


def test_damaged_archives(tmp_path):
    write_tar(tmp_path / "a.tar", [("a.png", b"x" * 5000), ("b.png", b"y" * 5000)], "w:gz")
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"a\.tar: damaged archive: "):
        read_all(tmp_path / "a.tar")


def test_damaged_member_of_a_zip(tmp_path):
    write_zip(tmp_path / "a.zip", [("a.png", b"x" * 100), ("b.png", b"y" * 100)])
    content = (tmp_path / "a.zip").read_bytes().replace(b"x" * 100, b"x" * 99 + b"z")
    (tmp_path / "a.zip").write_bytes(content)
    files = {file.path: file for file in iterate_source(tmp_path / "a.zip")}
    assert set(files) == {"a.png", "b.png"}
    with pytest.raises(SourceError, match=r"a\.png: cannot be read: Bad CRC-32"):
        read_source_file(tmp_path / "a.zip", "a.png")


def write_raw_zip(path, names, *, system=3):
    """Write a zip whose names are these bytes, without the flag of UTF-8."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo("QRSTUVWXYZ"[number] * len(name))
            info.create_system = system
            archive.writestr(info, b"" if name.endswith((b"/", b"\\")) else b"%d" % number)
    content = path.read_bytes()
    for number, name in enumerate(names):
        content = content.replace(b"QRSTUVWXYZ"[number : number + 1] * len(name), name)
    path.write_bytes(content)


def read_names(path):
    """Return the paths of a source, and the remarks on them."""
    walk = Walk(set(), [])
    return [file.path for file in iterate_source(path, walk)], walk.remarks


def mark_unicode(text, version=1, crc=None, kind=0x7075):
    """Return a function that makes the extra field with a name in UTF-8."""

    def make(name):
        field = struct.pack("<BL", version, zlib.crc32(name) if crc is None else crc) + text
        return struct.pack("<HH", 0x5455, 1) + b"\0" + struct.pack("<HH", kind, len(field)) + field

    return make


def test_names_in_utf8_without_the_flag(tmp_path):
    """As macOS writes them, with composed and with decomposed accents."""
    names = ["caf\u00e9/00001.png", "cafe\u0301/00002.png", "\u732b/00003.png", "plain/00004.png"]
    write_raw_zip(tmp_path / "a.zip", [name.encode() for name in names])
    assert read_names(tmp_path / "a.zip") == (names, [])
    assert [file.read() for file in iterate_source(tmp_path / "a.zip")] == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("encoding", "name", "shown"),
    [
        ("shift_jis", "\u732b/0000001.png", "\u00f6L/0000001.png"),
        ("cp1252", "caf\u00e9/0000001.png", "caf\u0398/0000001.png"),
        ("cp437", "caf\u00e9/0000001.png", "caf\u00e9/0000001.png"),
    ],
)
def test_names_of_unknown_encoding_are_reported(tmp_path, encoding, name, shown):
    utf8 = "ob\u00e9/00000002.png".encode()  # that this one is valid UTF-8 proves nothing
    write_raw_zip(tmp_path / "a.zip", [name.encode(encoding), b"plain/00000003.png", utf8])
    found, remarks = read_names(tmp_path / "a.zip")
    assert found == [shown, "plain/00000003.png", utf8.decode("cp437")]
    assert remarks == [
        f"{tmp_path}/a.zip: the encoding of 2 names is unknown (no flag, and not UTF-8); read as code page 437, such "
        f"as {shown}; if that is wrong, unpack it with the right encoding, and take the folder"
    ]


MALFORMED = pytest.mark.skipif(sys.version_info >= (3, 13), reason="zipfile reads the field itself, and refuses it")


@pytest.mark.parametrize(
    ("extra", "is_read"),
    [
        (mark_unicode("\u732b/1.png".encode()), True),
        (mark_unicode("\u732b/1.png".encode(), crc=7), False),
        (mark_unicode("\u732b/1.png".encode(), version=2), False),
        (mark_unicode("\u732b/1.png".encode(), kind=0x6375), False),
        pytest.param(mark_unicode(b"\xff/1.png"), False, marks=MALFORMED),
        pytest.param(mark_unicode(b""), False, marks=MALFORMED),
    ],
)
def test_unicode_path_field(tmp_path, extra, is_read):
    """It counts only with the checksum of the very name that it stands for."""
    name = "\u732b/00001.png".encode("shift_jis")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        info = zipfile.ZipInfo("0" * len(name))
        info.extra = extra(name)
        archive.writestr(info, b"0")
    content = (tmp_path / "b.zip").read_bytes().replace(b"0" * len(name), name)
    (tmp_path / "b.zip").write_bytes(content)
    (found,), remarks = read_names(tmp_path / "b.zip")
    assert found == ("\u732b/1.png" if is_read else name.decode("cp437"))
    assert bool(remarks) is not is_read
    assert [file.read() for file in iterate_source(tmp_path / "b.zip")] == [b"0"]


def test_marked_names_need_no_guess(tmp_path):
    write_zip(tmp_path / "a.zip", [("\u732b/1.png", b"x"), ("caf\u00e9/2.png", b"y")])  # with the flag
    assert read_names(tmp_path / "a.zip") == (["\u732b/1.png", "caf\u00e9/2.png"], [])


@pytest.mark.parametrize("system", [0, 3, 10, 11])
def test_backslashes_are_between_folders(tmp_path, system):
    """As .NET wrote them before 4.6.1, and so PowerShell; folders end in one."""
    names = [b"cat\\", b"cat\\00001.png", b"cat\\deep\\00002.png", b"00003.png"]
    write_raw_zip(tmp_path / "a.zip", names, system=system)
    walk = Walk(set(), [])
    assert [file.path for file in iterate_source(tmp_path / "a.zip", walk)] == [
        "cat/00001.png",
        "cat/deep/00002.png",
        "00003.png",
    ]
    assert walk.folders == {"cat"}


def test_backslashes_are_characters_where_slashes_are_between_folders(tmp_path):
    names = [b"cat/00\\1.png", b"dog/00002.png"]
    write_raw_zip(tmp_path / "unix.zip", names, system=3)
    assert read_names(tmp_path / "unix.zip") == (["cat/00\\1.png", "dog/00002.png"], [])
    write_raw_zip(tmp_path / "windows.zip", names, system=0)
    assert read_names(tmp_path / "windows.zip") == (["cat/00/1.png", "dog/00002.png"], [])


def test_backslashes_lead_nowhere(tmp_path):
    names = [b"..\\..\\00001.png", b"C:\\photos\\cat\\00002.png", b"\\\\server\\share\\00003.png", b"cat\\00004.png"]
    write_raw_zip(tmp_path / "a.zip", names, system=0)
    assert read_all(tmp_path / "a.zip") == {
        "../../00001.png": "name points outside the archive",
        "/photos/cat/00002.png": "name points outside the archive",
        "//server/share/00003.png": "name points outside the archive",
        "cat/00004.png": b"3",
    }


def test_names_that_backslashes_make_the_same_are_not_read_twice(tmp_path):
    write_raw_zip(tmp_path / "a.zip", [b"cat\\00001.png", b"cat/00001.png"], system=0)
    files = list(iterate_source(tmp_path / "a.zip"))
    assert [file.refusal for file in files] == [None, "second member of this name in the archive"]


def test_name_with_a_zero_byte_is_refused_and_not_cut(tmp_path):
    write_raw_zip(tmp_path / "a.zip", [b"cat/00001.png\0.exe"])
    assert read_all(tmp_path / "a.zip") == {"cat/00001.png\\x00.exe": "name holds a control character"}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_in_a_tar_are_utf8_whatever_the_locale(tmp_path, monkeypatch, form):
    names = ["caf\u00e9/1.png", "\u732b/2.png", "x" * 70 + "/" + "\u00e9" * 60 + ".png"]
    with tarfile.open(tmp_path / "a.tar", "w", format=form, encoding="utf-8") as archive:
        for name in names[: 2 if form == tarfile.USTAR_FORMAT else 3]:
            archive.addfile(tarfile.TarInfo(name))
    monkeypatch.setattr(tarfile.TarFile, "encoding", "iso8859-1")  # what a locale of Western Europe would be
    assert [file.path for file in iterate_source(tmp_path / "a.tar")] == names[
        : 2 if form == tarfile.USTAR_FORMAT else 3
    ]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_in_a_tar_that_are_no_utf8_are_refused(tmp_path, form):
    with tarfile.open(tmp_path / "a.tar", "w", format=form, encoding="iso8859-1") as archive:
        archive.addfile(tarfile.TarInfo("caf\u00e9/1.png"))
        archive.addfile(
            tarfile.TarInfo("\u00e9" * 120 + "/2.png") if form == tarfile.GNU_FORMAT else tarfile.TarInfo("x")
        )
    found = read_all(tmp_path / "a.tar")
    assert found.pop("caf\\xe9/1.png") == "name is not UTF-8"
    assert list(found.values()) == ["name is not UTF-8" if form == tarfile.GNU_FORMAT else b""]
