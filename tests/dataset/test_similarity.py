import pytest
from PIL import Image, ImageEnhance, ImageOps

from conftest import encode_image
from near_data import draw_product, draw_scene
from relearn.dataset.similarity import SIDE_PX, draw_gray, measure_similarity
from relearn.images.decoding import decode_image


def compare(image, other, window=0, *, is_mirrored=False, enough=1.0):
    return measure_similarity(draw_gray(image), draw_gray(other), window, is_mirrored=is_mirrored, enough=enough)


def encode(image, quality=92):
    return decode_image(encode_image(image, "JPEG", quality=quality)).rgb


ALTERED = {
    "encoded": lambda image: encode(image, 40),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "gray": lambda image: image.convert("L").convert("RGB"),
    "cropped": lambda image: encode(image.crop((11, 3, image.width - 5, image.height - 9))),
}


@pytest.mark.parametrize("alteration", ALTERED)
@pytest.mark.parametrize("draw", [draw_scene, draw_product])
def test_copies_are_alike(draw, alteration):
    image = draw(1)
    assert compare(ALTERED[alteration](image), image) > 0.95


@pytest.mark.parametrize("draw", [draw_scene, draw_product])
def test_other_images_are_not_alike(draw):
    assert compare(draw(1), draw(2)) < 0.8


def test_a_part_is_found_in_either_image():
    image = draw_scene(3)
    part = image.crop((13, 9, image.width - 3, image.height - 3))
    assert compare(part, image) > 0.95
    assert compare(image, part) > 0.95
    assert compare(image, part, enough=-1.0) < 0.95  # the search for the other part is not needed


def test_mirrored_copies_are_alike_if_they_are_meant():
    image = draw_scene(4)
    assert compare(ImageOps.mirror(image), image) < 0.5
    assert compare(ImageOps.mirror(image), image, is_mirrored=True) > 0.99


def test_images_get_as_sharp_as_the_less_sharp_one():
    image = draw_image_of_edges()
    assert draw_gray(image).size == (SIDE_PX, SIDE_PX)
    assert compare(image.resize((20, 20)), image) > 0.9


def draw_image_of_edges():
    """Draw what a small copy cannot show."""
    fine = Image.effect_noise((200, 200), 40).convert("RGB")
    return Image.blend(fine, draw_scene(5, (200, 200)), 0.7)


def test_an_image_without_structure_is_like_none():
    assert compare(Image.new("RGB", (64, 64), "red"), draw_scene(6)) == 0


def test_a_part_is_a_slight_crop():
    image = draw_scene(7)
    for share, is_slight in ((0.1, True), (0.16, False)):
        width, height = (round(side * share) for side in image.size)
        part = image.crop((width, height, image.width - width, image.height - height))
        assert (compare(part, image, window=2) > 0.9) == is_slight
    # The better fit is ever smaller, down to nothing.
    assert -1 <= compare(Image.linear_gradient("L").convert("RGB"), Image.radial_gradient("L").convert("RGB")) <= 1
