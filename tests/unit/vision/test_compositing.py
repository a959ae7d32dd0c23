"""The painted part comes back into the source, and nothing else does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agentfly.vision.compositing import paste_back, paste_region, solid


@given(st.integers(0, 2**32 - 1), st.sampled_from(["L", "RGB", "RGBA"]))
def test_only_masked_pixels_change_and_full_ones_are_the_painted(seed: int, mode: str) -> None:
    random = np.random.default_rng(seed)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    source = Image.fromarray(random.integers(0, 256, (12, 17, *channels), dtype=np.uint8))
    colours = random.integers(0, 256, (12, 17, 3), dtype=np.uint8)
    painted = Image.fromarray(colours)
    values = random.choice(np.array([0, 1, 128, 254, 255], np.uint8), (12, 17))
    result = paste_back(source, painted, Image.fromarray(values))
    before, after = np.asarray(source.convert("RGB")), np.asarray(result.convert("RGB"))
    assert (after[values == 0] == before[values == 0]).all()
    assert (after[values == 255] == colours[values == 255]).all()
    between = np.minimum(before, colours), np.maximum(before, colours)
    assert ((after >= between[0]) & (after <= between[1])).all()
    if mode == "RGBA":
        assert result.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_painted_image_of_another_size_is_brought_to_the_source() -> None:
    source, painted = Image.new("RGB", (30, 20)), Image.new("RGB", (64, 64), (0, 200, 0))
    result = paste_back(source, painted, Image.new("L", (30, 20), 255))
    assert result.getcolors() == [(600, (0, 200, 0))]


def test_solid_keeps_what_is_at_least_half_as_bright_as_the_brightest() -> None:
    values = np.array([[0, 49, 50, 100], [0, 0, 0, 0]], np.uint8)
    assert np.asarray(solid(Image.fromarray(values))).tolist() == [[0, 0, 255, 255], [0, 0, 0, 0]]
    assert np.asarray(solid(Image.new("L", (2, 1), 255))).tolist() == [[255, 255]]


def test_a_pasted_region_is_exact_at_both_ends_of_its_alpha_and_close_between() -> None:
    below, above, alpha = np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 5), np.arange(256), indexing="ij")
    shape = (below.shape[0] * below.shape[1], 256)
    below, above, alpha = (values.reshape(shape).astype(np.uint8) for values in (below, above, alpha))
    target = Image.fromarray(np.stack([below] * 3, axis=-1))
    region = Image.fromarray(np.stack([above] * 3 + [alpha], axis=-1))
    pasted, box = paste_region(target, region, (0, 0))
    found = np.asarray(pasted)[..., 0].astype(np.float64)
    assert (pasted.mode, box) == ("RGB", (0, 0, 256, shape[0]))
    assert (found[:, 0] == below[:, 0]).all()
    assert (found[:, 255] == above[:, 255]).all()
    assert np.abs(found - (below + alpha / 255 * (above.astype(np.float64) - below))).max() <= 0.51


def test_a_region_beyond_the_target_leaves_it_as_it_is() -> None:
    target = Image.new("RGBA", (8, 8), (1, 2, 3, 0))
    for corner in ((8, 0), (0, -3), (-4, 2)):
        pasted, box = paste_region(target, Image.new("RGBA", (4, 3), "red"), corner)
        assert box is None
        assert pasted.tobytes() == target.tobytes()
    assert target.getpixel((0, 0)) == (1, 2, 3, 0)
