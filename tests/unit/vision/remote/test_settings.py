"""Servers as people write them: one parser for every option, key and argument."""

from __future__ import annotations

from typing import Any

import pytest

from agentfly.errors import ConfigError
from agentfly.vision.remote import NodeConfig
from agentfly.vision.remote.settings import read_nodes


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        (None, []),
        ([], []),
        ("localhost:18501", ["http://localhost:18501"]),
        ("a:1,b:2", ["http://a:1", "http://b:2"]),
        (["a:1", " b:2 ", "http://c:3/", "https://images.example/v1"], None),
        ([("b", 2), ["::1", 3], NodeConfig("http://d:4")], ["http://b:2", "http://[::1]:3", "http://d:4"]),
        (["[::1]:8000"], ["http://[::1]:8000"]),
        ({"base_url": "a:1", "model": "m"}, ["http://a:1"]),
    ],
)
def test_every_form_names_the_same_server(given: Any, urls: list[str] | None) -> None:
    found = [node.base_url for node in read_nodes(given)]
    assert found == (urls if urls is not None else ["http://a:1", "http://b:2", "http://c:3", "https://images.example"])


def test_a_mapping_has_the_fields_of_a_node_and_is_read_back_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k")
    spec = {"base_url": "http://omni:8000", "adapter": "vllm-omni", "operations": ["edit", "inpaint"]}
    (node,) = read_nodes(spec, api_key_env="KEY")
    assert node == NodeConfig("http://omni:8000", "vllm-omni", None, "KEY", frozenset(("edit", "inpaint")))
    assert read_nodes([node.to_spec()]) == [node]
    assert NodeConfig("http://a:1").to_spec() == "http://a:1"


def test_the_common_key_is_for_those_that_name_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.setenv("TWO", "2")
    nodes = read_nodes(["a:1", {"base_url": "b:2", "api_key_env": "TWO"}], api_key_env="ONE")
    assert [node.headers["Authorization"] for node in nodes] == ["Bearer 1", "Bearer 2"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("localhost", "--nodes: 'localhost' has no port: write HOST:PORT, such as localhost:8000"),
        ("ftp://x", "--nodes: 'ftp://x' is not HOST:PORT"),
        ("a:1/path", "--nodes: 'a:1/path' is not HOST:PORT"),
        ("a:99999", "--nodes: 'a:99999': a port is a number from 1 to 65535"),
        ("", "--nodes: '' is not HOST:PORT"),
        ([("localhost",)], "--nodes: ('localhost',) is no server: write 'HOST:PORT'"),
        ([("localhost", "x")], "is no server"),
        ([3], "3 is no server"),
        ({"base_url": "a:1", "api_key": "k"}, "unknown field of a server 'api_key'. Did you mean 'api_key_env'"),
        ({"model": "m"}, "has no base_url"),
        ({"base_url": "a:1", "api_key_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
        ({"base_url": "a:1", "adapter": "vllm"}, "Did you mean 'vllm-omni'"),
    ],
)
def test_what_is_no_server_is_told_in_the_words_of_the_option(given: Any, words: str) -> None:
    with pytest.raises(ConfigError) as fault:
        read_nodes(given, "--nodes")
    assert words in str(fault.value)
    assert "NodeConfig" not in str(fault.value)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="has a password in it") as fault:
        read_nodes("http://me:geheim@h:8000")
    assert "geheim" not in str(fault.value)
