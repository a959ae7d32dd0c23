"""Boxes from a vision-language model, whatever it wraps its JSON in."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from agentfly.errors import ConfigError, ToolError
from agentfly.vision.base import Detections
from agentfly.vision.detection.vlm_detector import VlmDetector, VlmSettings


class Endpoint:
    """A chat endpoint that gives one answer, through the real SDK."""

    def __init__(self, answer: str, status: int = 200, body: bytes | None = None) -> None:
        self.answer, self.body = answer, body
        self.status = status
        self.requests: list[Any] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(json.loads(request.content))
        if self.body is not None:
            return httpx2.Response(200, content=self.body, headers={"content-type": "application/json"})
        message = {"role": "assistant", "content": self.answer}
        body = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        return httpx2.Response(self.status, json=body if self.status == 200 else {"error": {"message": "no"}})

    def detector(self, **settings: Any) -> VlmDetector:
        client = openai.AsyncOpenAI(
            api_key="k",
            base_url="http://model.test/v1",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(self)),
        )
        return VlmDetector(VlmSettings(model="policy", **settings), client)


def boxes(*entries: object) -> str:
    return json.dumps(list(entries))


CAT = {"bbox_2d": [14, 28, 56, 84], "label": "cat", "score": 0.8}
DOG = {"bbox_2d": [0, 0, 28, 28], "label": "dog", "score": 0.3}


async def find(endpoint: Endpoint, image: Image.Image, box: float = 0.35, **settings: Any) -> Detections:
    return await endpoint.detector(**settings).detect(image, "Cat. dog", box_threshold=box, text_threshold=0.25)


@pytest.mark.parametrize(
    "answer",
    [
        boxes(CAT, DOG),
        f"```json\n{boxes(CAT, DOG)}\n```",
        f"Here they are:\n{boxes(CAT, DOG)}\nThat is all.",
        boxes(CAT, DOG).replace('"', "'"),
        boxes(CAT, DOG)[:-1] + ",]",
    ],
)
async def test_boxes_are_read_from_json_in_any_wrapping(answer: str) -> None:
    found = await find(Endpoint(answer), Image.new("RGB", (112, 112)))
    assert [(one.label, one.score, one.box) for one in found] == [("cat", 0.8, (14, 28, 56, 84))]
    assert found.best_rejected == 0.3
    assert found[0].mask.getbbox() == (14, 28, 56, 84)


async def test_pixels_of_the_image_sent_become_pixels_of_the_image_given() -> None:
    endpoint = Endpoint(boxes(CAT))
    found = await find(endpoint, Image.new("RGB", (1000, 500)), max_pixels=28 * 28 * 32)
    content = endpoint.requests[0]["messages"][0]["content"]
    sent = Image.open(io.BytesIO(base64.b64decode(content[0]["image_url"]["url"].partition(",")[2])))
    assert sent.size == (224, 112)
    assert "224 wide and 112 high" in content[1]["text"]
    assert "cat, dog" in content[1]["text"]
    assert found[0].box == (62, 125, 250, 375)


async def test_a_transparent_image_is_shown_on_white() -> None:
    endpoint = Endpoint("[]")
    await find(endpoint, Image.new("RGBA", (56, 56), (255, 0, 0, 0)))
    url = endpoint.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert sent.getextrema() == ((255, 255),) * 3


async def test_thousandths_are_of_the_sides() -> None:
    answer = boxes({"bbox_2d": [100, 200, 500, 1000], "label": "cat"})
    found = await find(Endpoint(answer), Image.new("RGB", (300, 200)), coordinates="thousandths")
    assert [(one.score, one.box) for one in found] == [(1.0, (30, 40, 150, 200))]


async def test_an_empty_list_finds_nothing() -> None:
    found = await find(Endpoint("[]"), Image.new("RGB", (112, 112)))
    assert found == []
    assert found.best_rejected is None


async def test_entries_that_are_no_boxes_are_left_out() -> None:
    answer = boxes(
        "cat", {"bbox_2d": [1, 2, 3]}, {"bbox_2d": "1234"}, {"bbox_2d": [5, 5, 5, 5]}, {"bbox": [1, 2, 30, 40]}
    )
    found = await find(Endpoint(answer), Image.new("RGB", (112, 112)))
    assert [(one.label, one.box) for one in found] == [("cat dog", (1, 2, 30, 40))]


@pytest.mark.parametrize(
    "answer",
    [
        boxes({"bbox_2d": [1, 2, 3], "label": "cat"}),
        boxes({"bbox_2d": [5, 5, 5, 5], "label": "cat"}),
        boxes({"bbox_2d": [5000, 5000, 6000, 6000], "label": "cat"}),
        boxes({"bbox_2d": [1, 2, 3], "label": "cat"}, {**DOG, "score": 0.1}),
    ],
    ids=["three numbers", "a point", "outside", "beside one below the threshold"],
)
async def test_boxes_of_which_none_can_be_read_are_an_observation(answer: str) -> None:
    with pytest.raises(ToolError, match="the detector policy gave boxes that cannot be read, such as "):
        await find(Endpoint(answer), Image.new("RGB", (112, 112)))


async def test_a_model_with_another_unit_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    detector = Endpoint(boxes({"bbox_2d": [500, 500, 1000, 1000], "label": "cat"})).detector()
    for _ in range(2):
        (cat,) = await detector.detect(Image.new("RGB", (112, 56)), "cat", box_threshold=0.3, text_threshold=0.3)
        assert cat.box == (56, 28, 112, 56)
    assert [record.message for record in caplog.records] == [
        "the detector policy gives boxes in thousandths: set coordinates to thousandths"
    ]


async def test_an_answer_in_words_is_an_observation() -> None:
    with pytest.raises(ToolError, match="gave no list of boxes"):
        await find(Endpoint("I cannot see a cat."), Image.new("RGB", (112, 112)))


async def test_faults_of_the_endpoint_are_told_apart() -> None:
    image = Image.new("RGB", (112, 112))
    with pytest.raises(ToolError, match="did not answer"):
        await find(Endpoint("", status=500), image)
    with pytest.raises(ConfigError, match="refuses the key"):
        await find(Endpoint("", status=401), image)
    with pytest.raises(ConfigError, match="check model and base_url"):
        await find(Endpoint("", status=404), image)


class Answers:
    """An endpoint that gives one whole body after the other; the last one for ever."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.answers = answers
        self.requests: list[Any] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(json.loads(request.content))
        status, body = self.answers[min(len(self.requests), len(self.answers)) - 1]
        return httpx2.Response(status, json=body)

    async def find(self, retries: int = 0) -> Detections:
        transport = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        client = openai.AsyncOpenAI(
            api_key="k", base_url="http://model.test/v1", max_retries=retries, http_client=transport
        )
        detector = VlmDetector(VlmSettings(model="policy"), client)
        return await detector.detect(Image.new("RGB", (112, 112)), "cat", box_threshold=0.1, text_threshold=0.1)


def answer(content: object) -> tuple[int, object]:
    return 200, {"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": content}}]}


REFUSED = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


async def test_refused_parameters_are_renamed_or_left_out() -> None:
    endpoint = Answers(
        (400, {"error": {"message": REFUSED, "param": "max_tokens", "code": "unsupported_parameter"}}),
        (400, {"error": {"message": "Unsupported value: 'temperature' does not support 0 with this model."}}),
        answer(boxes(CAT)),
    )
    assert len(await endpoint.find()) == 1
    sent = [request.keys() - {"model", "messages"} for request in endpoint.requests]
    assert sent == [{"max_tokens", "temperature"}, {"max_completion_tokens", "temperature"}, {"max_completion_tokens"}]


async def test_content_as_a_list_of_parts_is_read_without_its_thoughts() -> None:
    thought = {"type": "thinking", "thinking": "[0, 0, 1, 1] or so"}
    found = await Answers(answer([thought, {"type": "text", "text": boxes(CAT)}])).find()
    assert [one.label for one in found] == ["cat"]


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        ({"message": "slow down", "code": 429}, ToolError, "slow down"),
        ({"message": "who?", "code": 401}, ConfigError, "refuses the key"),
        ("it broke", ToolError, "it broke"),
    ],
)
async def test_an_error_in_status_200_is_told_as_it_is(error: object, kind: type[Exception], words: str) -> None:
    endpoint = Answers((200, {"error": error}))
    with pytest.raises(kind, match=words):
        await endpoint.find()
    assert len(endpoint.requests) == 1


async def test_a_passing_error_in_status_200_is_tried_as_often_as_one_with_a_status() -> None:
    slow = {"message": "slow down", "code": 429, "metadata": {"headers": {"Retry-After": "0.001"}}}
    endpoint = Answers((200, {"error": slow}), (200, {"error": slow}), answer(boxes(CAT)))
    assert len(await endpoint.find(retries=2)) == 1
    assert len(endpoint.requests) == 3


async def test_without_a_key_openai_itself_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
        await VlmDetector(VlmSettings(model="m")).detect(
            Image.new("RGB", (56, 56)), "cat", box_threshold=0.3, text_threshold=0.3
        )


@pytest.mark.parametrize(
    "body",
    [b"null", b"[]", b"7", b'{"choices": "none"}', b'{"choices": {}}', b'{"choices": [7]}'],
)
async def test_json_of_another_form_than_a_completion_is_no_list_of_boxes(body: bytes) -> None:
    with pytest.raises(ToolError, match="gave no list of boxes"):
        await find(Endpoint("", body=body), Image.new("RGB", (112, 112)))


async def test_words_in_place_of_a_completion_name_the_address_as_a_web_page_does() -> None:
    with pytest.raises(ToolError, match="sent no JSON: check that base_url ends in /v1"):
        await find(Endpoint("", body=b'"words"'), Image.new("RGB", (112, 112)))


async def test_a_number_of_thousands_of_digits_is_no_json() -> None:
    with pytest.raises(ToolError, match="sent no JSON"):
        await find(Endpoint("", body=b'{"created": %s}' % (b"9" * 5000)), Image.new("RGB", (112, 112)))
