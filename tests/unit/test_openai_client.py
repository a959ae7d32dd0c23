"""The translation of the SDK's exceptions: kinds, reasons without the key, waits."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import httpx2
import openai
import pytest
from pydantic import SecretStr

from agentfly.errors import BackendError, ConfigError, ToolError
from agentfly.openai_client import ApiFault, Endpoint, SdkClient, read_fault, read_retry_after, tool_error

REQUEST = httpx2.Request("POST", "http://h/v1/x")


def status(code: int, name: str | None = None, text: str = "no", **headers: str) -> openai.APIStatusError:
    """What the SDK raises for an answer with this status."""
    client = openai.OpenAI(api_key="k", base_url="http://h/v1")
    body = {"error": {"message": text, "code": name}}
    return client._make_status_error_from_response(
        httpx2.Response(code, json=body, request=REQUEST, headers={k.replace("_", "-"): v for k, v in headers.items()})
    )


def unreachable() -> openai.APIConnectionError:
    fault = openai.APIConnectionError(request=REQUEST)
    fault.__cause__ = OSError("connection refused")
    return fault


@pytest.mark.parametrize(
    ("fault", "kind", "retryable", "words"),
    [
        (TimeoutError(), "timeout", True, "did not answer within 3 s: raise the endpoint's timeout"),
        (openai.APITimeoutError(request=REQUEST), "timeout", True, "within 3 s"),
        (unreachable(), "unreachable", True, r"\(connection refused\): check its address, and that it runs"),
        (status(401), "key_refused", False, r"refuses the key \(HTTP 401\)"),
        (status(403), "key_refused", False, r"refuses the key \(HTTP 403\)"),
        (status(404), "not_found", False, "not served there .*: check model and base_url"),
        (status(400, text="not allowed"), "refused", False, "refuses this request: .*not allowed"),
        (status(409), "refused", False, "refuses this request"),
        (status(422), "refused", False, "refuses this request"),
        (status(408), "server_error", True, "try again later"),
        (status(503), "server_error", True, "503.*try again later"),
        (status(429), "rate_limit", True, "try again later"),
        (status(429, "insufficient_quota"), "no_quota", False, "has no quota left"),
        (json.JSONDecodeError("bad", "<", 0), "no_json", False, "sent no JSON: check that base_url ends in /v1"),
        (ValueError("Exceeds the limit (4300 digits)"), "no_json", False, "sent no JSON"),
        (openai.APIError("broke off", REQUEST, body=None), "other", True, "broke off"),
    ],
)
def test_each_exception_has_a_kind_and_a_sentence(fault: Exception, kind: str, retryable: bool, words: str) -> None:
    read = read_fault(fault, "the judge m", timeout=3.0)
    assert (read.kind, read.retryable) == (kind, retryable)
    with pytest.raises(ToolError, match=rf"^the judge m .*{words}"):
        raise ToolError(read.message)


def test_the_reason_is_one_short_line_without_the_key_and_with_short_paths() -> None:
    text = f"a bad\nday for sk-secret at /{'folder/' * 40}file " + "x" * 900
    read = read_fault(status(400, text=text), "m", secret=SecretStr("sk-secret"))
    assert "sk-secret" not in read.message
    assert "***" in read.reason
    assert "..." in read.reason
    assert "folder/" * 20 not in read.reason
    assert len(read.reason) == 500
    assert "\n" not in read_fault(openai.APIError("a\n b", REQUEST, body=None), "m").message


def test_a_mere_letter_is_no_secret() -> None:
    assert "no" in read_fault(status(400), "m", secret="n").reason


def test_a_wait_is_a_number_or_a_date() -> None:
    assert read_retry_after({}) is None
    assert read_retry_after({"retry-after": "7.5"}) == 7.5
    assert read_retry_after({"retry-after": "-1"}) == 0.0
    assert read_retry_after({"retry-after": "soon"}) is None
    assert 50.0 < (read_retry_after({"retry-after": formatdate(time.time() + 60)}) or 0.0) <= 60.0
    assert read_fault(status(429, retry_after="3"), "m").retry_after == 3.0


def test_engines_get_a_tool_error_unless_no_request_could_succeed() -> None:
    kinds = [type(tool_error(read_fault(fault, "m"))) for fault in (status(401), status(404), status(400), status(500))]
    assert kinds == [ConfigError, ConfigError, ToolError, ToolError]


def test_callers_build_their_own_exception() -> None:
    def error(fault: ApiFault) -> BackendError:
        return BackendError(fault.message, retryable=fault.retryable)

    client = SdkClient(Endpoint(base_url="http://h/v1", api_key=SecretStr("sk-secret"), timeout=2.0))
    with pytest.raises(BackendError, match="within 2 s") as caught, client.translated_faults("m", error):
        raise openai.APITimeoutError(request=REQUEST)
    assert caught.value.retryable
    with pytest.raises(ToolError, match="within 2 s"), client.translated_faults("m"):
        raise TimeoutError
    with pytest.raises(KeyError), client.translated_faults("m"):
        raise KeyError("a bug stays one")
