"""Images of the tool cache as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from agentfly.vision.cached_images import as_file, read_image
from tests.unit.vision.test_tool_cache import make_image


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_an_image_is_read_as_it_was_written(tmp_path: Path, mode: str) -> None:
    image = make_image(1, mode=mode)
    file = as_file(image)
    (tmp_path / f"a{file.suffix}").write_bytes(file.content)
    read = read_image(tmp_path / "a", json.loads(json.dumps(file.described)))
    assert (read.mode, read.size, read.tobytes()) == (image.mode, image.size, image.tobytes())


def test_a_mask_takes_little_room_and_a_colour_image_no_decoding() -> None:
    mask = Image.new("L", (512, 512))
    mask.paste(255, (100, 100, 300, 300))
    assert len(as_file(mask).content) < 512 * 512 / 50
    assert as_file(make_image(1)).content == make_image(1).tobytes()


def test_other_pixels_are_refused(tmp_path: Path) -> None:
    described = as_file(make_image(1)).described
    for wrong in (make_image(2).tobytes(), make_image(1).tobytes()[:-1], make_image(1).tobytes() + b"x"):
        (tmp_path / "a.pixels").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"a\.pixels holds other pixels"):
            read_image(tmp_path / "a", described)
