"""Base64 from outside is decoded in linear time, in all the forms in which programs write it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.images import ImageLimits, from_base64, load_image
from agentfly.images.base64_text import decode_base64
from tests.fuzz.growth import growth
from tests.fuzz.images import GROWING


@pytest.mark.parametrize("name", GROWING)
def test_a_long_text_takes_time_in_proportion_to_its_length(name: str) -> None:
    limits = ImageLimits(allow_files=False)
    assert growth(lambda text: load_image(text, limits), GROWING[name]) < 4
    assert growth(from_base64, GROWING[name]) < 4


@given(st.binary(min_size=1), st.sampled_from(["", "=", "=="]), st.sampled_from([0, 1, 4, 76]))
def test_every_usual_spelling_of_base64_gives_its_bytes(data: bytes, padding: str, width: int) -> None:
    for text in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        spelt = text if padding else text.rstrip("=")
        lines = [spelt[i : i + width] for i in range(0, len(spelt), width)] if width else [spelt]
        assert decode_base64(" \r\n".join(lines) + "\n") == data


@pytest.mark.parametrize("text", ["", " ", "=", "A", "AAAAA", "A===", "QQ=Q", "QUJD!", "é", "QUJD\ud800", "QU\x00JD"])
def test_everything_else_is_not_base64(text: str) -> None:
    assert decode_base64(text) is None
