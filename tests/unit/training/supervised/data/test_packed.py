"""Packed examples give the model exactly what its processor would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agentfly.templates import ChatCodec
from agentfly.training.supervised.data.examples import IGNORED, pixels_of
from agentfly.training.supervised.data.packed import PackedExamples, Packer


@pytest.fixture(scope="module")
def images() -> dict[str, Image.Image]:
    """A photograph's colours in RGB, and a mask."""
    noise = np.random.default_rng(0).integers(0, 256, (168, 168, 3), dtype=np.uint8)
    mask = Image.new("L", (168, 168))
    mask.paste(255, (20, 30, 90, 100))
    return {"img_a": Image.fromarray(noise), "img_b": Image.new("RGB", (168, 168), (255, 0, 7)), "mask": mask}


@pytest.fixture(scope="module")
def pack(policy_codec: ChatCodec, images: dict[str, Image.Image]) -> PackedExamples:
    packer = Packer(policy_codec.processor.image_processor)
    packer.add_images({name: images[name] for name in ("img_a", "mask")})
    packer.add_images(images)
    packer.add([5, 6, 7], [IGNORED, 6, 7], ["mask", "img_b"])
    packer.add([8], [8], [])
    packer.add([9, 9], [IGNORED, 9], ["img_a"])
    return packer.packed()


def test_pixels_are_those_of_the_processor(
    pack: PackedExamples, policy_codec: ChatCodec, images: dict[str, Image.Image]
) -> None:
    found = pack[0].load()
    pixels, grids = pixels_of(policy_codec, [images["mask"], images["img_b"]])
    assert found.grids == grids
    np.testing.assert_allclose(found.pixels, pixels, atol=1e-6)


def test_each_image_is_kept_once_in_eight_bits(pack: PackedExamples) -> None:
    assert pack.images.dtype == np.uint8
    assert pack.images.shape == (3, 36, 3 * 14 * 14)


def test_examples_keep_their_own_ids_labels_and_images(pack: PackedExamples) -> None:
    examples = [pack[index] for index in range(len(pack))]
    assert [list(example.ids) for example in examples] == [[5, 6, 7], [8], [9, 9]]
    assert [list(example.labels) for example in examples] == [[IGNORED, 6, 7], [8], [IGNORED, 9]]
    assert [example.labelled for example in examples] == [2, 1, 1]
    assert [len(example.load().grids) for example in examples] == [2, 0, 1]


def test_a_file_gives_them_back(pack: PackedExamples, tmp_path: Path) -> None:
    pack.save(tmp_path / "examples.npz")
    again = PackedExamples.load(tmp_path / "examples.npz")
    assert again.scaling == pack.scaling
    assert len(again) == len(pack)
    for before, after in ((pack[index], again[index]) for index in range(len(pack))):
        assert list(before.labels) == list(after.labels)
        np.testing.assert_array_equal(before.load().pixels, after.load().pixels)
