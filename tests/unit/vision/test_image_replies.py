"""The forms in which images APIs send an image, and those in which they send none."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import ImagesResponse
from PIL import Image

from agentfly.errors import ImageError
from agentfly.images import encode_image
from agentfly.vision.image_replies import decode_image, first_image

# Noise, so that its base64 has each letter of the alphabet; one byte more than a multiple of three needs padding.
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
FILE = encode_image(NOISE)
FILE += b"\0" * ((1 - len(FILE)) % 3)
TEXT = base64.b64encode(FILE).decode()


@pytest.mark.parametrize(
    "reply",
    [
        {"data": [{"b64_json": TEXT}]},
        {"data": [{"b64_json": None, "url": TEXT}]},
        {"data": [{"b64_json": "", "url": TEXT}]},
        {"data": [TEXT]},
        {"data": {"b64_json": TEXT}},
        {"data": TEXT},
        ImagesResponse.construct(data=[{"b64_json": TEXT}]),
        ImagesResponse.construct(data=[TEXT]),
    ],
)
def test_the_image_is_found_in_every_form(reply: object) -> None:
    assert first_image(reply) == TEXT


@pytest.mark.parametrize("reply", [None, "<html>", [], {}, {"data": None}, {"data": []}, {"data": [{"b64_json": 1}]}])
def test_a_reply_without_an_image_has_none(reply: object) -> None:
    assert first_image(reply) is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (TEXT, True),
        (TEXT.rstrip("="), False),
        (base64.urlsafe_b64encode(FILE).decode(), False),
        (base64.encodebytes(FILE).decode(), False),
        (f"data:image/png;base64,{TEXT}", False),
        (f" DATA:image/png;base64,{TEXT.rstrip('=')}", False),
    ],
    ids=["base64", "unpadded", "url-safe", "lines", "data URI", "data URI, unpadded"],
)
def test_all_texts_of_one_image_give_that_image(text: str, kept: bool) -> None:
    assert set("+/=") <= set(TEXT)
    image, content = decode_image(text)
    assert image.tobytes() == NOISE.tobytes()
    assert content == (FILE if kept else None)


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "b64_json", "url"]), inner, max_size=3)
    ),
)


@given(anything)
def test_no_reply_is_a_fault_of_ours(reply: object) -> None:
    text = first_image(reply)
    if text is not None and "://" not in text:
        with pytest.raises(ImageError):
            decode_image(text)
