"""Errors name the fix, and are caught by the kind that callers expect."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly import errors
from agentfly.errors import (
    AgentFlyError,
    BackendError,
    EngineUnavailable,
    MissingExtraError,
    ToolError,
    first_line,
    printable,
    printable_json,
    short_path,
    short_paths,
    shortened,
    unknown_name,
)
from tests.unit.hostile import EVERYTHING, assert_tame


def test_every_error_is_an_agentfly_error() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert kinds
    assert all(issubclass(kind, AgentFlyError) for kind in kinds)


def test_an_engine_that_cannot_is_an_observation_for_the_model() -> None:
    assert issubclass(EngineUnavailable, ToolError)


def test_a_missing_extra_names_the_command_and_is_an_import_error() -> None:
    with pytest.raises(ImportError, match=r"video editing needs .*pip install -e '\.\[video\]'"):
        raise MissingExtraError("video editing", "video")


def test_a_backend_error_is_not_retried_unless_it_says_so() -> None:
    assert not BackendError("no").retryable
    assert BackendError("busy", retryable=True).retryable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("inpaint", "unknown tool 'inpaint'. Did you mean 'inpaint_image'? Valid: detect_objects, inpaint_image"),
        ("zzz", "unknown tool 'zzz'. Valid: detect_objects, inpaint_image"),
    ],
)
def test_an_unknown_name_offers_the_nearest_and_lists_the_valid(name: str, expected: str) -> None:
    assert unknown_name("tool", name, ["inpaint_image", "detect_objects"]) == expected


def test_long_paths_keep_the_end_that_names_the_file() -> None:
    path = f"/{'a-folder/' * 30}image.png"
    line = first_line(ValueError(f"cannot load '{path}' as a model: not an image\nmore"))
    assert line.startswith("cannot load '...")
    assert line.endswith("a-folder/image.png' as a model: not an image")
    # What is no path, or short, stays as it is.
    url = f"http://host/{'a/' * 30}"
    assert short_paths(f"{url} model=/a/b.png") == f"{url} model=/a/b.png"
    assert short_path("/a/b.png") == "/a/b.png"
    assert short_path(path).endswith("a-folder/image.png")


def test_a_printable_text_cannot_steer_a_terminal() -> None:
    assert_tame(printable(EVERYTHING))
    assert printable("a\x1b[31mb\x9bc\u202ed\ud800\r") == "a\ufffd[31mb\ufffdc\ufffdd\ufffd\ufffd"


def test_ordinary_text_stays_as_it_is() -> None:
    emoji, persian = (
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    )
    for text in ("", "one\ttwo\nthree", "no\xa0break", "\u5168\u3000\u89d2", "شكرا", "שלום", emoji, persian, "é ß – …"):
        assert printable(text) == text
    assert printable("one\r\ntwo\r\n") == "one\ntwo\n"


@given(st.text(st.characters(codec=None, categories=None) | st.sampled_from(EVERYTHING)))
def test_escaped_json_has_the_same_values_and_no_controls(text: str) -> None:
    shown = printable_json(json.dumps({"text": text}, ensure_ascii=False))
    assert printable(shown) == shown
    assert json.loads(shown) == json.loads(json.dumps({"text": text}))
    shown.encode()


def test_an_unknown_name_is_not_echoed_at_any_length() -> None:
    said = unknown_name("tool", "x" * 50_000, ["inpaint_image"])
    assert said == f"unknown tool '{'x' * 77}...'. Valid: inpaint_image"
    assert shortened("x" * 80) == "x" * 80
