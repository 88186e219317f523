"""Pictures of evidence maps: the photo in gray, and over it blue against and orange for the class."""

import base64
import io

import numpy as np
from PIL import Image

from relearn.explanation.maps import Explanation
from relearn.images.decoding import decode_image
from relearn.inference.inputs import ImageLike, read_image

# Okabe and Ito's vermilion and blue, which people with any color blindness distinguish (https://jfly.uni-koeln.de/color).
FOR, AGAINST = (213, 94, 0), (0, 114, 178)
MAX_OPACITY = 0.8


def draw_explanation(image: ImageLike, explanation: Explanation, size_px: int) -> str:
    """Return a JPEG (size_px, size_px) as a data URI: an image with its evidence map over it.

    The image is stretched to a square, as the network sees it, and gray, so that its colors are not mistaken for
    evidence. The color is transparent where a position adds nothing,
    and as strong as possible where one adds or takes away the most in this image.

    Raises
    ------
    ImageError
        The image cannot be read.
    """
    return _encode(paint_map(_read_square(image, size_px), explanation.grid))


def draw_photo(image: ImageLike, size_px: int) -> str:
    """Return the picture of `draw_explanation` without the map and in its own colors."""
    return _encode(_read_square(image, size_px))


def _read_square(image: ImageLike, size_px: int) -> np.ndarray:
    content = read_image(image)
    photo = decode_image(content).rgb if isinstance(content, bytes) else content
    return np.asarray(photo.resize((size_px, size_px), Image.Resampling.BILINEAR))


def _encode(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def paint_map(pixels: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return pixels (height, width, 3) uint8 in gray, with an evidence map (rows, columns) in color over them."""
    height, width, _ = pixels.shape
    strength = grid / max(np.abs(grid).max(), np.finfo(np.float64).tiny)
    resized = Image.fromarray(strength.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    smooth = np.asarray(resized)[..., np.newaxis]
    gray = np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis]
    opacity = MAX_OPACITY * np.abs(smooth)
    painted = (1 - opacity) * gray + opacity * np.where(smooth > 0, FOR, AGAINST)
    return np.asarray(painted.round(), np.uint8)


def draw_scale() -> str:
    """Return the legend of the colors as inline SVG, whose text has the color of the text around it."""
    steps = np.linspace(-1, 1, 21)
    boxes = "".join(
        f'<rect x="{10 * number}" width="10" height="12" fill="rgb{FOR if step > 0 else AGAINST}" '
        f'fill-opacity="{MAX_OPACITY * abs(step):.2f}"/>'
        for number, step in enumerate(steps)
    )
    words = "".join(
        f'<text x="{x}" y="26" text-anchor="{anchor}" fill="currentColor" font-size="11">{word}</text>'
        for x, anchor, word in ((0, "start", "against"), (105, "middle", "nothing"), (210, "end", "for the class"))
    )
    label = "Colors of the map: blue speaks against the class, orange for it, no color for neither"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 210 30" width="210" height="30">'
        f'<rect width="210" height="12" fill="#aaa"/>{boxes}{words}</svg>'
    )
