"""What a prediction is asked for: files named by path, folder, glob pattern or address, and images in memory."""

import errno
import glob
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from relearn.dataset.source_files import SourceFile, explain_hidden, open_source_file, refuse_file
from relearn.dataset.sources import iterate_source
from relearn.errors import ImageError
from relearn.images.decoding import MAX_BYTES
from relearn.inference.addresses import find_scheme, locate_file, read_address
from relearn.runtime.threads import map_ahead

ImageLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

# Modes of Pillow that a PNG cannot hold, and those of the same colors that it can.
_PNG_MODES = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "RGBX": "RGB", "RGBa": "RGBA", "PA": "RGBA"}
_PNG_MODES |= {"La": "LA"} | {mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")}


def find_files(name: str, *, is_online: bool = False) -> list[SourceFile]:
    """Return the files that an argument names, in the order of their paths; none if it names nothing.

    `-` is standard input. An `https://` address is read if `is_online`.
    """
    if name == "-":
        return [SourceFile(name, _read_stdin)]
    if scheme := find_scheme(name):
        return [_open_address(name, scheme, is_online)]
    if os.path.isdir(name):
        inside = [file for file in iterate_source(Path(name), is_strict=False) if explain_hidden(file.path) is None]
        found = [file._replace(path=os.path.join(name, file.path) if file.path != "." else name) for file in inside]
    elif os.path.lexists(name):
        found = [open_source_file(Path(name), name)]
    else:
        matching = [path for path in glob.glob(name, recursive=True) if not os.path.isdir(path)]
        found = [open_source_file(Path(path), path) for path in matching]
        found += list_closed_folders(name)
    return sorted(found, key=lambda file: file.path)


def find_all_files(inputs: Iterable[str], *, is_online: bool = False) -> tuple[list[SourceFile], list[tuple[str, str]]]:
    """Return the files that arguments name, each path once, and the arguments that name none, each with the reason."""
    files: dict[str, SourceFile] = {}
    failures = []
    for name in inputs:
        found = find_files(name, is_online=is_online)
        files.update((file.path, file) for file in found)
        if not found:
            failures.append((name, "no such file, or none in that folder"))
    return list(files.values()), failures


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed")
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _open_address(name: str, scheme: str, is_online: bool) -> SourceFile:
    """Return what is at an address, as a file that is not yet read."""
    if scheme == "file":
        try:
            return open_source_file(Path(locate_file(name)), name)
        except ImageError as error:
            return refuse_file(name, str(error))
    if not is_online:
        return refuse_file(name, "addresses are not read offline")
    return SourceFile(name, partial(read_address, name))


def list_closed_folders(pattern: str) -> list[SourceFile]:
    """Return, as refused files, the folders of a glob pattern that cannot be listed, which glob skips."""
    parts = Path(pattern).parts
    closed = {}
    for n, part in enumerate(parts):
        if not glob.has_magic(part):
            continue
        head = os.path.join(*parts[:n], "**" if part == "**" else "", "")
        for folder in glob.glob(head, recursive=True) if n or part == "**" else [os.curdir]:
            try:
                os.scandir(folder or os.curdir).close()
            except NotADirectoryError:
                continue
            except OSError as error:
                path = os.path.normpath(folder)
                if explain_hidden(os.path.basename(path)):
                    continue
                closed[path] = refuse_file(path, f"folder cannot be listed: {error.strerror}")
    return list(closed.values())


def read_content(file: SourceFile) -> bytes:
    """Return the bytes of a file, or raise `ImageError` with the reason why it has none."""
    if file.refusal is not None:
        raise ImageError(file.refusal)
    try:
        return file.read()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None


def check_images(images: Iterable[ImageLike]) -> list[ImageLike]:
    """Return images as a list; a path, bytes or an image alone raises `ImageError`."""
    is_one = isinstance(images, (str, bytes, os.PathLike, Image.Image)) or getattr(images, "ndim", 4) != 4
    if is_one or not isinstance(images, Iterable):
        raise ImageError(where="images", wanted="a list", got=type(images).__name__, advice="write [image] for one")
    return list(images)


def describe_image(number: int, image: ImageLike) -> str:
    """Return what errors call the image: its number in the list, and its path if it has one."""
    return f"images[{number}]" + (f" ({os.fspath(image)})" if isinstance(image, str | os.PathLike) else "")


def read_image(image: ImageLike) -> bytes | Image.Image:
    """Return the bytes of a file, or the RGB image of an array.

    An image of Pillow is returned as the bytes of a PNG, which keeps every pixel, transparency and the orientation, so
    that it is decoded like a file.

    Raises
    ------
    ImageError
        It is no image; the text is the reason alone.
    """
    match image:
        case str() | os.PathLike():
            return read_content(open_source_file(Path(image), os.fspath(image)))
        case bytes():
            return image
        case Image.Image():
            return _encode_png(image)
        case np.ndarray():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ImageError(
                    wanted="an array (height, width, 3) of uint8",
                    got=f"{image.shape} of {image.dtype}",
                    advice="convert it to RGB from 0 to 255",
                )
            return Image.fromarray(np.ascontiguousarray(image))
    raise ImageError(
        wanted="a path, bytes, an image of Pillow or an array",
        got=type(image).__name__,
        advice="convert it to one of them",
    )


def prepare_images(
    images: Sequence[ImageLike], prepare: Callable[[bytes | Image.Image], np.ndarray], n_ahead: int
) -> Iterator[np.ndarray]:
    """Yield what `prepare` makes of images, in threads up to `n_ahead` of them in advance.

    Raises
    ------
    ImageError
        An image cannot be read; the text says which one, and why.
    """

    def _prepare(numbered: tuple[int, ImageLike]) -> np.ndarray:
        try:
            return prepare(read_image(numbered[1]))
        except ImageError as error:
            raise ImageError(str(error), where=describe_image(*numbered)) from None

    return map_ahead(_prepare, list(enumerate(images)), n_ahead)


def _encode_png(image: Image.Image) -> bytes:
    if image.mode not in _PNG_MODES:
        wanted = f"a mode of {', '.join(_PNG_MODES)}"
        raise ImageError(wanted=wanted, got=image.mode, advice='use image.convert("RGB")')
    buffer = io.BytesIO()
    try:
        exif = image.getexif()
        mode = _PNG_MODES[image.mode]
        converted = image if mode == image.mode else image.convert(mode)
        converted.save(buffer, "PNG", compress_level=1, exif=exif)
    except (OSError, ValueError, SyntaxError) as error:  # a file that Pillow opened, and reads only now
        raise ImageError(f"cannot be read: {error}") from None
    return buffer.getvalue()
