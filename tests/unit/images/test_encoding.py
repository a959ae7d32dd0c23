"""Images are encoded, and only base64 of an image is decoded."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from agentfly.errors import ImageError
from agentfly.images import data_uri, encode_image, from_base64, handle_of, load_image, to_base64


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_png_keeps_every_pixel(image: Image.Image, mode: str) -> None:
    given = image.convert(mode)
    assert handle_of(from_base64(to_base64(given))) == handle_of(given)
    assert handle_of(load_image(data_uri(given))) == handle_of(given)


def test_what_colours_mean_is_written_with_them(image: Image.Image) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    given = image.convert("RGB")
    given.info["icc_profile"] = profile
    assert Image.open(BytesIO(encode_image(given))).info["icc_profile"] == profile
    given = image.convert("RGB")
    given.info["transparency"] = (1, 2, 3)
    assert Image.open(BytesIO(encode_image(given))).info["transparency"] == (1, 2, 3)


def test_transparent_pixels_are_white_in_jpeg() -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert np.asarray(load_image(encode_image(clear, "jpeg"))).min() > 250


@pytest.mark.parametrize(
    "text", ["/etc/passwd", "http://127.0.0.1/a.png", "data:image/png;base64,AAAA", "AAAA", "", "ä"]
)
def test_only_base64_of_an_image_is_decoded(text: str) -> None:
    with pytest.raises(ImageError):
        from_base64(text)
