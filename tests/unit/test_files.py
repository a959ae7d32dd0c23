"""Text files in every encoding that says what it is, and texts that no file can hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.files import encodable, read_text, read_yaml, undecodable
from agentfly.templates import load_template

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_byte_order_mark_is_read_and_is_no_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "text"
    for text in ("", "Tür\nzwei\n", "去掉门 🚪"):
        path.write_bytes(text.encode(encoding))
        assert read_text(path) == text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_settings_and_templates_saved_by_any_editor_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("name: Tür\n".encode(encoding))
    assert read_yaml(tmp_path / "a.yaml", "file") == {"name": "Tür"}
    (tmp_path / "a.jinja").write_bytes("{{ Tür }}".encode(encoding))
    assert load_template(str(tmp_path / "a.jinja")) == "{{ Tür }}"


def test_another_encoding_is_named_with_its_place_and_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("name: Tür\n".encode("latin-1"))
    with pytest.raises(UnicodeDecodeError) as fault:
        read_text(path)
    assert undecodable(fault.value) == "is no UTF-8 text (byte 0xfc at place 7): save it as UTF-8"
    with pytest.raises(ConfigError, match="is no UTF-8 text: save it as a YAML text file"):
        read_yaml(path, "file")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_json_can_be_written_and_what_could_be_already_stays(value: object) -> None:
    written = json.dumps(encodable(value), ensure_ascii=False).encode()
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        assert b"?" in written
    else:
        assert encodable(value) == value
