"""JSON between words and with small slips: what is meant is read, and nothing is invented."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.lenient_json import count_of, field_of, find_json, read_with_slips

plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.lists(st.lists(plain, max_size=3) | st.dictionaries(st.text(max_size=5), plain, max_size=3), max_size=4))
def test_all_values_between_words_are_found(values: list[Any]) -> None:
    assert list(find_json(" and ".join(map(json.dumps, values)))) == values


def test_brackets_of_prose_hide_nothing() -> None:
    assert list(find_json('See [note] {of that}: {"a": [1]} [2]')) == [{"a": [1]}, [2]]
    assert list(find_json('[1] {"a": [1]}', "{")) == [{"a": [1]}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 1, 'b': 'it is 2.50',}", {"a": 1, "b": "it is 2.50"}),
        ('{a: "x\\n1. y"}', {"a": "x\n1. y"}),
    ],
)
def test_small_slips_are_repaired(text: str, value: object) -> None:
    assert read_with_slips(text) == value


@pytest.mark.parametrize(
    "text", ["{'a': 1_000}", "{'a': 0.1+0.2}", "{'a': 7 or 80}", "{'a': " + "[" * 1500, "{" * 2001, "[1, 2"]
)
def test_no_number_is_invented_or_lost(text: str) -> None:
    with pytest.raises(ValueError, match=r"there is|nest|whole"):
        read_with_slips(text)


@given(st.text() | st.text("{}[]\"':,0123.e- \\", max_size=200))
def test_a_text_is_read_or_refused(text: str) -> None:
    list(find_json(text))
    try:
        read_with_slips(text)
    except ValueError:
        return


@pytest.mark.parametrize("piece", ["[", "{", '{"', '{"a":', "[1,", "[[1]", '["'])
def test_no_text_takes_long(piece: str) -> None:
    started = time.process_time()
    list(find_json(piece * (1_000_000 // len(piece))))
    assert time.process_time() - started < 3.0


def test_a_field_of_anything_may_be_missing() -> None:
    assert [field_of(holder, "a") for holder in ({"a": 1}, SimpleNamespace(a=1), {}, None, "a", ["a"])] == [
        1,
        1,
        *[None] * 4,
    ]


@pytest.mark.parametrize("value", [None, "5", -1, float("nan"), float("inf"), 10**400, [], {}])
def test_a_count_that_is_none_is_0(value: object) -> None:
    assert count_of({"n": value}, "n") == 0
    assert count_of({"n": 5.0}, "n") == 5
