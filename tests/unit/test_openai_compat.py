"""What servers refuse, send in place of an answer, or send in another form than OpenAI."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._models import construct_type
from openai.types.chat import ChatCompletion

from agentfly.openai_client import read_fault
from agentfly.openai_compat import Fallbacks, check_answer, split_content, status_of, words_of

BODY = {
    "model": "m",
    "messages": [],
    "max_completion_tokens": 9,
    "temperature": 0.7,
    "top_p": 0.9,
    "seed": 3,
    "stream_options": {"include_usage": True},
    "response_format": {"type": "json_schema"},
    "logprobs": True,
    "top_logprobs": 5,
}


def refusal(status: int, body: object) -> openai.APIStatusError:
    """What the SDK raises for an answer with this status and body."""
    client = openai.OpenAI(api_key="k", base_url="http://h/v1")
    request = httpx2.Request("POST", "http://h/v1/x")
    return client._make_status_error_from_response(httpx2.Response(status, json=body, request=request))


def says(message: str, **more: object) -> dict[str, object]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


def extra(*place: str) -> dict[str, object]:
    """Pydantic's refusal of one field, with the whole request as it repeats it for other faults."""
    return {"type": "extra_forbidden", "loc": ["body", *place], "msg": "Extra inputs are not permitted", "input": BODY}


def left_after(fault: openai.APIError, body: dict[str, Any] = BODY) -> dict[str, Any] | None:
    """The next body; None if the request is not worth another attempt."""
    fallbacks = Fallbacks("m")
    return fallbacks.adapt(body) if fallbacks.learn(fault, body, "no") else None


REFUSALS: list[tuple[int, object, set[str]]] = [
    # OpenAI and Azure
    (
        400,
        says(
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is "
            "supported.",
            param="temperature",
            code="unsupported_value",
        ),
        {"temperature"},
    ),
    (400, says("no", param="top_p", code="unsupported_parameter"), {"top_p"}),
    (400, says("Unrecognized request argument supplied: seed", param=None, code=None), {"seed"}),
    (400, says("Unrecognized request arguments supplied: seed, top_p"), {"seed", "top_p"}),
    (400, says("Validation error at #/stream_options: Extra inputs are not permitted"), {"stream_options"}),
    # Mistral, in three forms
    (422, {"object": "error", "message": {"detail": [extra("seed")]}, "param": None, "code": None}, {"seed"}),
    (422, {"detail": [extra("seed"), extra("stream_options", "include_usage")]}, {"seed", "stream_options"}),
    (422, {"object": "error", "message": json.dumps({"detail": [extra("seed")]}), "code": "1000"}, {"seed"}),
    # LiteLLM, as a fault of the server too
    (
        400,
        says(
            "litellm.UnsupportedParamsError: anthropic does not support parameters: ['seed'], for model=c. To drop "
            "these, set `litellm.drop_params=True`"
        ),
        {"seed"},
    ),
    (500, says("ollama does not support parameters: {'seed': 1}, for model=l", type=None, code=500), {"seed"}),
    (500, says("extraneous key [include_usage] is not permitted"), {"stream_options"}),
    # Claude, itself and through gateways
    (400, says("`temperature` is deprecated for this model."), {"temperature"}),
    (400, says("`temperature` may only be set to 1 when thinking is enabled."), {"temperature"}),
    (400, says("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled."), {"top_p"}),
    (
        400,
        says(
            "litellm.BadRequestError: BedrockException - This model doesn't support the temperature field. Remove "
            "temperature and try again."
        ),
        {"temperature"},
    ),
    (
        400,
        says("Provider returned error", metadata={"raw": json.dumps(says("seed: Extra inputs are not permitted"))}),
        {"seed"},
    ),
    # Gemini answers with a list
    (
        400,
        [
            says(
                'Invalid JSON payload received. Unknown name "seed": Cannot find field.\nInvalid JSON payload '
                'received. Unknown name "stream_options": Cannot find field.'
            )
        ],
        {"seed", "stream_options"},
    ),
    # Cerebras, xAI, Go, Rust, jsonschema, vLLM on a TPU
    (422, {"message": "body.seed: property 'body.seed' is unsupported", "param": "validation_error"}, {"seed"}),
    (400, says("Model grok does not support parameter topP."), {"top_p"}),
    (400, says('json: unknown field "seed"'), {"seed"}),
    (422, says("unknown field `seed`, expected one of `model`, `temperature`, `top_p`"), {"seed"}),
    (400, says("Additional properties are not allowed ('seed' was unexpected)"), {"seed"}),
    (400, says("VLLM TPU does not support per-request seed."), {"seed"}),
    (400, says("Unrecognized request arguments supplied: seed, top_p, temperature"), {"seed", "top_p", "temperature"}),
    (400, says("create() got an unexpected keyword argument 'seed'"), {"seed"}),
    (500, says("create() got an unexpected keyword argument 'seed'"), {"seed"}),
    (502, says("Unsupported parameter: 'top_p'"), {"top_p"}),
    (500, says("parameter `seed` is not supported"), {"seed"}),
    (500, says("no", param="seed", code="unsupported_parameter"), {"seed"}),
    (400, says("these are not supported: seed, top_p, temperature"), {"seed", "top_p", "temperature"}),
    (500, says("This model does not accept the parameter `top_p`"), {"top_p"}),
    (502, says("`temperature` is not supported with this model."), {"temperature"}),
    (500, says("temperature is deprecated for this model"), {"temperature"}),
    (
        400,
        says("Unrecognized key(s) in object: 'seed', 'top_p', 'stream_options'"),
        {"seed", "top_p", "stream_options"},
    ),
    (400, says("seed is not supported by API versions below 2024-02-15"), {"seed"}),
    (400, says("temperature cannot be set when thinking is enabled"), {"temperature"}),
    (400, says("seed is not a valid parameter"), {"seed"}),
    # Extras without which a request is nearly as good
    (400, says("Invalid schema for response_format 'x'"), {"response_format"}),
    (400, says("guided_json cannot be compiled"), {"response_format"}),
    (400, says("logprobs: 5 is more than 0"), {"logprobs", "top_logprobs"}),
]


@pytest.mark.parametrize(("status", "body", "gone"), REFUSALS)
def test_a_refused_parameter_is_left_out_in_whatever_words(status: int, body: object, gone: set[str]) -> None:
    assert left_after(refusal(status, body)) == {name: value for name, value in BODY.items() if name not in gone}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, {"detail": [extra("max_completion_tokens")]}),
        (400, says("Unrecognized request argument supplied: max_completion_tokens")),
        (400, {"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'input': 800}]"}),
    ],
)
def test_the_limit_of_tokens_goes_by_its_other_name(status: int, body: object) -> None:
    left = left_after(refusal(status, body))
    assert left is not None
    assert (left.get("max_tokens"), "max_completion_tokens" in left) == (9, False)


def test_the_older_name_is_exchanged_too_but_only_once() -> None:
    fallbacks, body = Fallbacks("m"), {"model": "m", "max_tokens": 5}
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    assert fallbacks.learn(refusal(400, says(words, param="max_tokens", code="unsupported_parameter")), body, "no")
    sent = fallbacks.adapt(body)
    assert sent == {"model": "m", "max_completion_tokens": 5}
    again = refusal(400, says("Unrecognized request argument supplied: max_completion_tokens"))
    assert not fallbacks.learn(again, sent, "no")
    # A request that was on its way when the refusal came is sent again in the new form.
    assert fallbacks.learn(refusal(400, says(words)), body, "no")


@pytest.mark.parametrize(("temperature", "gone"), [(0.7, "top_p"), (1.0, "temperature"), (0.0, "top_p")])
@pytest.mark.parametrize(
    "words",
    [
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
        "litellm.BadRequestError: BedrockException - The model returned the following errors: `temperature` and "
        "`top_p` cannot both be specified for this model.",
        "Please set either temperature or top_p",
    ],
)
def test_of_temperature_and_top_p_the_one_that_says_less_is_left_out(words: str, temperature: float, gone: str) -> None:
    left = left_after(refusal(400, says(words)), {"temperature": temperature, "top_p": 0.9})
    assert left is not None
    assert {"temperature", "top_p"} - left.keys() == {gone}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, says("above 2", code="decimal_above_max_value", param="temperature")),
        (400, says("max_completion_tokens is too large: 9. This model supports at most 4 completion tokens")),
        (400, says("top_k is not supported")),
        (400, says("the image is too large")),
        (422, {"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required", "input": BODY}]}),
        (429, says("seed is not supported")),
        (401, says("seed is not supported")),
        (503, says("seed is not supported")),
        (400, "<html>seed is not supported</html>"),
    ],
)
def test_other_refusals_are_errors(status: int, body: object) -> None:
    assert left_after(refusal(status, body)) is None


SENT = "{'temperature': 0.7, 'seed': 1, 'top_p': 0.9, 'max_completion_tokens': 100, 'stream_options': {}}"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, says(f"unexpected error while forwarding {SENT}")),
        (500, says(f"unknown error while forwarding parameters {SENT}")),
        (500, says(f"upstream does not accept more work: {SENT}")),
        (500, says(f"one of the workers failed with {SENT}")),
        (400, says(f"the upload is not supported: {SENT}")),
        (400, says(f"Unknown argument 'foo' in {SENT}")),
        (500, says("Unexpected end of stream while sampling with temperature")),
        (400, says("Unexpected end of stream while sampling with temperature")),
        (500, says(f"the worker does not accept {SENT}")),
        (500, says("temperature of the worker is not supported by its board")),
        (500, says("worker not available: sampler of seed 3")),
        (400, says("temperature must not be set above 0.5")),
        (400, says("temperature must not be set above 0.5", param="temperature", code="invalid_value")),
        (400, says("Unsupported value: temperature greater than 1 is not supported")),
        (400, says("seed must be one of 0, 1, 2; -1 is not a valid seed")),
        (400, says("max_completion_tokens cannot be set greater than 4096")),
        (400, says("max_completion_tokens is not allowed to exceed 4096")),
    ],
)
def test_a_wrong_value_and_a_repeated_request_drop_nothing(status: int, body: object) -> None:
    assert left_after(refusal(status, body)) is None


def test_the_log_gives_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    fallbacks = Fallbacks("big")
    for _ in range(2):
        fallbacks.learn(refusal(400, says("seed is not supported")), BODY, "seed is not supported")
    assert [record.getMessage() for record in caplog.records] == [
        "big does not take 'seed'; it is left out from now on (seed is not supported)"
    ]


@pytest.mark.slow
@given(st.lists(st.sampled_from(sorted(BODY.keys() - {"model", "messages"})), min_size=1))
def test_every_chain_of_refusals_ends(names: list[str]) -> None:
    fallbacks = Fallbacks("m")
    for name in names * 3:
        sent = fallbacks.adapt(BODY)
        if fallbacks.learn(refusal(400, says(f"{name} is not supported")), sent, "no"):
            assert fallbacks.adapt(BODY) != sent
        assert {"model", "messages"} <= fallbacks.adapt(BODY).keys()
        assert {"max_tokens", "max_completion_tokens"} & fallbacks.adapt(BODY).keys()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (422, {"detail": [extra("seed")]}, "Error code: 422 - body.seed: Extra inputs are not permitted"),
        (400, {"error": "no such thing"}, "Error code: 400 - no such thing"),
        (400, [says("bad")], "Error code: 400 - bad"),
        (
            502,
            says("Provider returned error", metadata={"raw": "overloaded"}),
            "Error code: 502 - Provider returned error - overloaded",
        ),
        (400, says("bad"), "Error code: 400 - bad"),
        (500, "<html><body>Bad gateway</body></html>", "Error code: 500"),
    ],
)
def test_the_reason_is_shown_wherever_the_server_puts_it(status: int, body: object, reason: str) -> None:
    assert read_fault(refusal(status, body), "m").reason == reason


def answer(**fields: object) -> object:
    return construct_type(type_=ChatCompletion, value=fields)


CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("given_answer", "kind", "status"),
    [
        (answer(error={"message": "slow down", "code": 429}), "rate_limit", 429),
        (answer(error={"message": "slow down", "code": "429"}), "rate_limit", 429),
        (answer(error={"message": "slow down", "type": "rate_limit_error"}), "rate_limit", 429),
        (answer(error={"message": "pay", "code": "insufficient_quota"}), "no_quota", 429),
        (answer(error={"message": "pay", "code": 402}), "no_quota", 402),
        (answer(error={"message": "who?", "code": 401}), "key_refused", 401),
        (answer(error={"message": "which?", "code": "model_not_found"}), "not_found", 404),
        (answer(error={"message": "bad", "status": "INVALID_ARGUMENT"}), "refused", 400),
        (answer(error={"message": "down", "code": 502}, choices=[]), "server_error", 502),
        (answer(error={"message": "busy", "type": "overloaded_error"}), "server_error", 503),
        (answer(error="it broke"), "other", None),
        (answer(error={"message": "half", "code": 502}, choices=[CHOICE]), "server_error", 502),
        (answer(choices=[{**CHOICE, "error": {"message": "half", "code": 502}}]), "server_error", 502),
        (answer(object="error", message="bad", code=400), "refused", 400),
        (answer(code=503, msg="busy"), "server_error", 503),
        ([answer(error={"message": "slow down", "code": 429})], "rate_limit", 429),
    ],
)
def test_an_error_in_an_answer_of_status_200_is_an_error(given_answer: object, kind: str, status: int | None) -> None:
    with pytest.raises(openai.APIError) as caught:
        check_answer(given_answer)
    read = read_fault(caught.value, "m")
    assert (read.kind, read.status) == (kind, status)
    assert read.reason == str(caught.value)


@pytest.mark.parametrize(
    "given_answer",
    [
        answer(choices=[CHOICE]),
        answer(choices=[CHOICE], error=None),
        answer(choices=[CHOICE], error={"code": 0, "message": ""}),
        answer(choices=[CHOICE], code=0),
        answer(choices=[]),
        answer(welcome="here"),
        "<html>",
        None,
        [],
    ],
)
def test_other_answers_are_let_through(given_answer: object) -> None:
    check_answer(given_answer)


def test_the_wait_that_a_gateway_asks_for_in_the_body_is_kept() -> None:
    body = {"message": "slow down", "code": 429, "metadata": {"headers": {"Retry-After": "17"}}}
    with pytest.raises(openai.APIError) as caught:
        check_answer(answer(error=body))
    assert read_fault(caught.value, "m").retry_after == 17.0


@pytest.mark.parametrize(
    ("content", "thought", "text"),
    [
        (None, "", ""),
        ("hi", "", "hi"),
        ([], "", ""),
        (["a", "b"], "", "ab"),
        ([{"type": "text", "text": "a"}, {"type": "output_text", "text": "b"}], "", "ab"),
        ([{"text": "a"}], "", "a"),
        ({"type": "text", "text": "a"}, "", "a"),
        ([{"type": "text", "text": {"value": "a", "annotations": []}}], "", "a"),
        ([{"type": "refusal", "refusal": "no"}], "", "no"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "hm", "a"),
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}],
            "hm",
            "a",
        ),
        ([{"type": "reasoning", "text": "hm"}, "a"], "hm", "a"),
        ([{"type": "image_url", "image_url": {"url": "x"}}, None, 3, {"type": "text", "text": None}], "", ""),
        (7, "", ""),
        (b"x", "", ""),
    ],
)
def test_content_is_read_in_all_its_forms(content: object, thought: str, text: str) -> None:
    assert split_content(content) == (thought, text)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(["text", "thinking", "429"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "error", "message", "code", "loc", "msg"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(anything)
def test_no_content_and_no_error_is_too_odd_to_be_read(value: object) -> None:
    thought, text = split_content(value)
    assert thought + text == "".join((thought, text))
    assert "" not in words_of(value)
    assert status_of(value) is None or 400 <= (status_of(value) or 0) <= 599
    with suppress(openai.APIError):
        check_answer(construct_type(type_=ChatCompletion, value=value))
