"""Keys: what is read as one, and that none is left in a text, in any form in which programs show it."""

from __future__ import annotations

import base64
import json
import logging
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from agentfly.agents.llm_backends import ClientConfig
from agentfly.agents.llm_backends.endpoint import endpoint_config
from agentfly.errors import ConfigError
from agentfly.openai_client import Endpoint
from agentfly.redaction import (
    LogFormatter,
    is_secret_name,
    public_settings,
    public_url,
    read_key,
    redact,
    secret_entries,
)
from agentfly.vision.remote import NodeConfig
from tests.fuzz.growth import growth
from tests.unit.hostile import EVERYTHING, assert_tame

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=40)


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\r\n", "\t{} \n\n"])
def test_spaces_and_line_breaks_around_a_key_are_no_part_of_it(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", around.format("sk-abcdef"))
    monkeypatch.setenv("OPENAI_API_KEY", around.format("sk-abcdef"))
    assert read_key("THE_KEY") == "sk-abcdef"
    assert Endpoint(api_key_env="THE_KEY").key() == "sk-abcdef"
    assert Endpoint(api_key=SecretStr(around.format("sk-abcdef"))).key() == "sk-abcdef"
    assert NodeConfig("http://h:1", api_key_env="THE_KEY").headers == {"Authorization": "Bearer sk-abcdef"}
    configs = (
        ClientConfig(),
        endpoint_config("http://h/v1", "THE_KEY"),
        ClientConfig(api_key=around.format("sk-abcdef")),
    )
    assert [config.api_key.get_secret_value() for config in configs if config.api_key] == ["sk-abcdef"] * 3


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-\x1b[0m", "sk-ключ", "sk-\ud800"])
def test_a_key_that_no_header_can_carry_is_refused_by_the_name_of_its_variable(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="the environment variable THE_KEY has a line break or another") as caught:
        read_key("THE_KEY", {"THE_KEY": key})
    assert "sk-" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^api_key: the key has a line break") as caught:
        Endpoint(api_key=SecretStr(key))
    assert "sk-" not in str(caught.value)


def test_a_variable_of_spaces_has_no_key() -> None:
    assert read_key("THE_KEY", {"THE_KEY": " \n"}) is None
    assert read_key("THE_KEY", {}) is None


@given(KEYS, st.sampled_from(["{}", "{}\n", " {} "]), st.text(max_size=8), st.text(max_size=8))
def test_no_form_of_a_key_is_left_in_a_text(key: str, around: str, before: str, after: str) -> None:
    assume("*" not in key)
    given = around.format(key)
    forms = (given, repr(given), repr(given.encode()), json.dumps(given), quote(given, safe=""), quote_plus(given))
    for form in forms:
        shown = redact(f"{before} {form} {after}", SecretStr(given))
        assert key not in shown.removeprefix(before).removesuffix(after)
        assert repr(key)[1:-1] not in shown.removeprefix(before).removesuffix(after)


def test_a_text_without_secrets_stays_as_it_is() -> None:
    for text in ("cannot reach http://10.0.0.1:8000/v1 (refused)", "a key=1 b", "mail me@x.org", "p < 0.05 ?", ""):
        assert redact(text, "sk-secret", None, "") == text


@pytest.mark.parametrize("start", ["?", "x://", "?key", "?&", "://@", "?token.-", "?a&key=b"])
@pytest.mark.parametrize("repeated", [False, True])
def test_the_time_to_redact_grows_no_faster_than_the_text(start: str, repeated: bool) -> None:
    def text(size: int) -> str:
        return (start * (size // len(start)) if repeated else start + "a" * size) + " ="

    assert growth(lambda given: redact(given, "sk-secret"), text, length=10_000) < 4


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pa55@h:1/v1", "https://***@h:1/v1"),
        ("https://me:p@55@h/v1", "https://***@h/v1"),
        ("https://token@h/v1", "https://***@h/v1"),
        ("https://h/v1?key=abc", "https://h/v1?key=***"),
        ("https://h/v1?a=1&api_key=abc&b=2", "https://h/v1?a=1&api_key=***&b=2"),
        ("https://h/v1?X-Amz-Signature=abc", "https://h/v1?X-Amz-Signature=***"),
        ("https://h/v1?access_token=a.b-c#token=z", "https://h/v1?access_token=***#token=***"),
        ("https://h/v1?subscription-key=abc", "https://h/v1?subscription-key=***"),
        ("https://h/v1?api-version=2024-10-21", "https://h/v1?api-version=2024-10-21"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert public_url(shown) == shown
    assert public_url(f"cannot reach {url} (refused)") == f"cannot reach {shown} (refused)"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Proxy-Authorization",
        "x-api-key",
        "api-key",
        "apiKey",
        "X-API-KEY",
        "openai_api_key",
        "Cookie",
        "Set-Cookie",
        "token",
        "X-Auth-Token",
        "hf_token",
        "accessToken",
        "client_secret",
        "secret",
        "password",
        "db_passwd",
        "Ocp-Apim-Subscription-Key",
        "x-functions-key",
        "aws_secret_access_key",
        "credentials",
    ],
)
def test_names_of_secrets_are_known_by_pattern(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "api_key_env",
        "max_tokens",
        "max_completion_tokens",
        "tokenizer_mode",
        "key",
        "keyword",
        "eos_token",
        "author",
        "secretary",
        "access_keyword",
        "authorization_url",
        "token_column",
        "model",
        "base_url",
        "top_k",
        "input_price",
        "monkey",
    ],
)
def test_names_of_other_settings_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_a_log_line_has_no_secrets_of_addresses_and_no_controls() -> None:
    record = logging.LogRecord(
        "a", logging.INFO, "f", 1, "GET %s %s", (f"http://me:pa55word@h?key=abc {EVERYTHING}", 1), None
    )
    line = LogFormatter("%(levelname)s %(message)s").format(record)
    assert line.startswith("INFO GET http://***@h?key=*** ")
    assert_tame(line)


def test_stored_settings_keep_everything_but_secrets() -> None:
    kept = {"a": 1, "b": [True, None, {"c": "d"}], "return_token_ids": True, "api_key_env": "K", "max_tokens": 3}
    assert public_settings(kept) == kept
    given = {"url": "http://me:pa55word@h", "all": [{"Cookie": "pa55word"}, ("http://h?key=pa55word",)], "token": 5}
    assert public_settings(given) == {
        "url": "http://***@h",
        "all": [{"Cookie": "***"}, ["http://h?key=***"]],
        "token": "***",
    }
    assert list(secret_entries(given)) == ["Cookie", "token"]
    assert list(secret_entries({"options": {"video_token": "<|video|>", "eot_token": "<end>"}})) == []
    assert (
        list(secret_entries({"env": {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}})) == []
    )


def test_the_options_of_a_command_are_entries_too() -> None:
    command = ["uvx", "server", "--api-key", "sk-abc", "--token=sk-abc", "HF_TOKEN=sk-abc", "--verbose"]
    given = {"tools": [{"mcp": command}, "look"]}
    assert list(secret_entries(given)) == ["api-key", "token", "HF_TOKEN"]
    kept = ["uvx", "server", "--api-key", "***", "--token=***", "HF_TOKEN=***", "--verbose"]
    assert public_settings(given) == {"tools": [{"mcp": kept}, "look"]}
    harmless = ["run", "--api-key-env", "KEY", "--max-token", "512", "--use-token", "--port=80", "model=secret-agent"]
    assert list(secret_entries({"mcp": harmless})) == []
    assert public_settings({"mcp": harmless}) == {"mcp": harmless}


def test_only_the_header_of_a_password_is_masked_among_words_after_basic() -> None:
    header = base64.b64encode(b"me:hunter2").decode()
    assert redact(f"got 'Basic {header}' and basic {header.rstrip('=')}, sir") == "got 'Basic ***' and basic ***, sir"
    words = "Basic authentication: a basic test, basic knowledge"
    assert redact(words) == words
