"""Files of a zip or a tar, one after the other, never unpacked to a name that the archive chooses."""

import bz2
import copy
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Self

from relearn.dataset.source_files import (
    READING_ERRORS,
    SourceFile,
    Walk,
    refuse_file,
    refuse_name,
    refuse_size,
    spell_name,
)
from relearn.errors import SourceError
from relearn.images.decoding import MAX_BYTES

_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 0x41  # flag bits 0 and 6
_HAS_END_MARK = 0x02
_IS_UTF8 = 0x800
_UNICODE_PATH = 0x7075  # an extra field: version 1, CRC-32 of the name in the header, the name in UTF-8
# Systems whose file names cannot hold a backslash: FAT, OS/2, Windows (two numbers), VFAT.
_SYSTEMS_WITH_BACKSLASHES = {0, 6, 10, 11, 14}

# A tar holds long names and attributes in records of their own, which tarfile reads whole, of any size.
_TAR_RECORDS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_MAX_TAR_RECORD_BYTES = 1024 * 1024


def begins_as_zip(source: Path) -> bool:
    """Return whether the first bytes are those of a zip; `zipfile.is_zipfile` accepts a tar that ends with a zip."""
    with source.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")


def _begins_as_tar(source: Path) -> bool:
    """Return whether the first bytes are those of a tar, compressed or not, even if `tarfile.open` fails."""
    with source.open("rb") as file:
        start = file.read(512)
    return start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or start[257:262] == b"ustar"


def iterate_zip(source: Path, walk: Walk) -> Iterator[SourceFile]:
    """Yield the members of a zip in its order, each readable as long as the iteration lasts."""
    try:
        archive = zipfile.ZipFile(source)
    except READING_ERRORS as error:
        raise SourceError(f"damaged archive: {error}", where=source) from None
    with archive:
        names, remark = _read_zip_names(archive.infolist())
        walk.remarks.extend([f"{source}: {remark}"] if remark else [])
        seen: set[str] = set()
        for info, name in zip(archive.infolist(), names, strict=True):
            path, is_folder = PurePosixPath(name).as_posix(), name.endswith("/")
            if is_folder and not info.file_size:
                walk.folders.add(spell_name(path))
                continue

            def _read(info: zipfile.ZipInfo = info) -> bytes:
                return _read_member(archive, info)

            is_special = is_folder or stat.S_ISLNK(info.external_attr >> 16)
            refused = _check_member(path, seen, is_special) or _refuse_packing(path, info)
            yield refused or refuse_size(path, info.file_size) or SourceFile(path, _read)


def _read_zip_names(infos: list[zipfile.ZipInfo]) -> tuple[list[str], str | None]:
    """Return the names of a zip's members as they were meant, with `/` between folders, and a remark on guesses.

    The specification (APPNOTE.TXT 4.4.17, 4.6.9 and appendix D): UTF-8 if a flag or an extra field says so, else code
    page 437. Without the flag many programs write UTF-8 (macOS), their country's code page, or backslashes (.NET before
    4.6.1, and so PowerShell's `Compress-Archive`).
    """
    marked = [_find_marked_name(info) for info in infos]
    raw = [_encode_name(info) for info, name in zip(infos, marked, strict=True) if name is None]
    encoding, remark = "utf-8", None
    try:
        b"\n".join(raw).decode(encoding)
    except UnicodeDecodeError:
        encoding = "cp437"
        examples = [name.decode(encoding) for name in raw if not name.isascii()]
        remark = (
            f"the encoding of {len(examples):,} names is unknown (no flag, and not UTF-8); read as code page 437, such "
            f"as {spell_name(examples[0])}; if that is wrong, unpack it with the right encoding, and take the folder"
        )
    names = [
        _encode_name(info).decode(encoding) if name is None else name for info, name in zip(infos, marked, strict=True)
    ]
    has_slashes = any("/" in name for name in names)
    return [
        _read_backslashes(name) if not has_slashes or info.create_system in _SYSTEMS_WITH_BACKSLASHES else name
        for info, name in zip(infos, names, strict=True)
    ], remark


def _encode_name(info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a name without the flag; zipfile decoded them as code page 437, which has all bytes."""
    return info.orig_filename.encode("cp437")


def _find_marked_name(info: zipfile.ZipInfo) -> str | None:
    """Return the name of a member if a flag, or a Unicode path field made for this name, gives its encoding."""
    if info.flag_bits & _IS_UTF8:
        return info.orig_filename
    extra, start = info.extra, struct.pack("<BL", 1, zlib.crc32(_encode_name(info)))
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field.startswith(start):
            try:
                return field[len(start) :].decode() or None
            except UnicodeDecodeError:
                return None
    return None


def _read_backslashes(name: str) -> str:
    """Return a name with backslashes as separators of folders, and a drive as the root."""
    if "\\" not in name:
        return name
    return re.sub("^[A-Za-z]:/", "/", name.replace("\\", "/"))


def _refuse_packing(path: str, info: zipfile.ZipInfo) -> SourceFile | None:
    """Refuse a member of a zip that is encrypted or packed by an unknown method."""
    if info.flag_bits & _ENCRYPTED:
        return refuse_file(path, "encrypted; unpack the archive with its password")
    if info.compress_type not in _ZIP_METHODS:
        method = zipfile.compressor_names.get(info.compress_type, str(info.compress_type))  # type: ignore[attr-defined]
        return refuse_file(path, f"packed by a method that is not read ({method}); pack it by deflate")
    return None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read a member of a zip, and unpack no more of it than the size in its header."""
    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with archive.open(info) as file:
            return file.read(info.file_size + 1)
    # With the other methods zipfile unpacks all that it has read at once, and checks the size only then: 400 bytes of
    # bzip2 are 512 MB. So it only finds the packed bytes, as if they were not packed.
    packed = copy.copy(info)
    packed.compress_type, packed.file_size, packed.CRC = zipfile.ZIP_STORED, info.compress_size, None  # type: ignore[assignment]
    with archive.open(packed) as file:
        content = file.read(MAX_BYTES + 1)
    decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor
    if info.compress_type == zipfile.ZIP_BZIP2:
        decompressor = bz2.BZ2Decompressor()
    else:
        # A zip's LZMA has its properties after four bytes and no size; a .lzma file begins with properties and size.
        size = b"\xff" * 8 if info.flag_bits & _HAS_END_MARK else info.file_size.to_bytes(8, "little")
        content = content[4:9] + size + content[9:]
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_BYTES)
    unpacked = decompressor.decompress(content, info.file_size + 1)
    if len(unpacked) != info.file_size or zlib.crc32(unpacked) != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
    return unpacked


class _StrictTarInfo(tarfile.TarInfo):
    """A header of a member that must be sound: tarfile takes a damaged or missing one as the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Parse a header; refuse a record that is too long for a name."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in _TAR_RECORDS and info.size > _MAX_TAR_RECORD_BYTES:
            # Not a TarError, which `tarfile.open` would read as: this is no tar.
            raise RuntimeError(f"a record of {info.size:,} bytes where a name is wanted")
        return info

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Read the next header; a damaged one is an error."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset}") from None


def iterate_tar(source: Path, walk: Walk) -> Iterator[SourceFile]:
    """Yield the members of a tar in its order, each to be read before the next one."""
    try:
        # Names are UTF-8 whatever the locale; others get surrogates, and are refused for them.
        archive = tarfile.open(source, tarinfo=_StrictTarInfo, encoding="utf-8")  # noqa: SIM115
    except tarfile.ReadError:
        if _begins_as_tar(source):
            raise SourceError("damaged archive: its beginning is cut short or wrong", where=source) from None
        wanted = "a folder, a .zip or a .tar (.gz, .bz2, .xz)"
        raise SourceError(where=source, wanted=wanted, got="none of them") from None
    except READING_ERRORS as error:
        raise SourceError(f"damaged archive: {error}", where=source) from None
    seen: set[str] = set()
    try:
        with archive:
            for member in archive:
                if member.isdir():
                    walk.folders.add(spell_name(PurePosixPath(member.name).as_posix()))
                    continue

                def _read(member: tarfile.TarInfo = member) -> bytes:
                    file = archive.extractfile(member)
                    return file.read(MAX_BYTES + 1) if file else b""

                path = PurePosixPath(member.name).as_posix()  # `tar -C folder .` writes ./NAME
                refused = _check_member(path, seen, not member.isfile()) or refuse_size(path, member.size)
                yield refused or SourceFile(path, _read)
    except READING_ERRORS as error:
        raise SourceError(f"damaged archive: {error}", where=source) from None


def _check_member(path: str, seen: set[str], is_special: bool) -> SourceFile | None:
    """Refuse a member that is no plain file, or that has the name of an earlier one; return None for any other."""
    if refused := refuse_name(path):
        return refused
    if path in seen:
        return refuse_file(path, "second member of this name in the archive")
    seen.add(path)
    return refuse_file(path, "a link or a device, not a file") if is_special else None
