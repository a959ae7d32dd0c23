"""Lines in every encoding that says what it is, and rows that say why they cannot be read."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfly.datasets.tables import is_missing, parse_json, parse_line, read_lines
from agentfly.errors import DatasetError

ROWS = [{"instruction": "Entferne die Tür."}, {"instruction": "去掉门 🚪"}, {"n": 1.5}]


def read(path: Path) -> list[Any]:
    return [parse_line(line) for _, line in read_lines(path)]


def written(path: Path, encoding: str, end: str = "\n") -> Path:
    text = end.join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lines_are_read_in_the_encoding_that_they_are_in(tmp_path: Path, encoding: str, end: str) -> None:
    assert read(written(tmp_path / "t.jsonl", encoding, end)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_mark_of_either_byte_order_is_read(tmp_path: Path, encoding: str) -> None:
    text = "\ufeff" + "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / "t.jsonl").write_bytes(text.encode(encoding))
    assert read(tmp_path / "t.jsonl") == ROWS


def test_marks_inside_of_a_file_made_of_several_are_passed_over(tmp_path: Path) -> None:
    line = b'\xef\xbb\xbf{"a": "\xc3\xa9"}\n'
    (tmp_path / "t.jsonl").write_bytes(line * 3)
    assert read(tmp_path / "t.jsonl") == [{"a": "é"}] * 3


def test_a_row_that_is_no_utf8_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"a": "b"}\n{"a": "T\xfcr"}\n{"a": "c"}\n')
    first, second, third = (line for _, line in read_lines(path))
    assert (parse_line(first), parse_line(third)) == ({"a": "b"}, {"a": "c"})
    with pytest.raises(DatasetError, match=r"is no UTF-8 text \(byte 0xfc at place 8\): save it as UTF-8"):
        parse_line(second)


def test_half_a_character_at_the_end_of_utf16_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", "utf-16")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"t\.jsonl, after line \d, is no UTF-16.* text .*save it as UTF-8"):
        list(read_lines(path))


@pytest.mark.parametrize("text", [r'{"a": "\ud83d"}', r'{"a": {"b": ["x\uDE00"]}}', r'{"\ud800": 1}'])
def test_half_of_a_surrogate_pair_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="half of a surrogate pair: write the whole character"):
        parse_line(text)
    assert parse_line(r'{"a": "\ud83d\ude00", "b": "\\ud83d"}') == {"a": "😀", "b": "\\ud83d"}


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 300_000, '{"a":' * 300_000, "[1, ", "\ufeff{}"])
def test_json_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="not JSON"):
        parse_json(text)


def test_numbers_that_json_does_not_know_are_missing_values() -> None:
    assert parse_json('{"a": NaN, "b": [Infinity, -Infinity, 1]}') == {"a": None, "b": [None, None, 1]}


@pytest.mark.parametrize("value", [None, "", b"", [], (), float("nan"), {}, {"bytes": None, "path": None}])
def test_a_cell_without_content_is_missing(value: object) -> None:
    assert is_missing(value)


@pytest.mark.parametrize("value", ["x", b"x", [None], 0, False, {"bytes": None, "path": "x"}, {"url": "x"}])
def test_a_cell_with_content_is_not(value: object) -> None:
    assert not is_missing(value)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_rows_or_refused_and_no_replacement_is_made_up(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    found = []
    with contextlib.suppress(DatasetError):
        for _, line in read_lines(path):
            with contextlib.suppress(DatasetError):
                found.append(parse_json(line))
    made_up = "\ufffd" in json.dumps(found, ensure_ascii=False).encode().decode()
    assert not made_up or b"\xef\xbf\xbd" in content or b"\\ufffd" in content.lower()
