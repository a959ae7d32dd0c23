"""Replies of vision-language models: every form of a box is read, and none is taken for another or for nothing."""

from __future__ import annotations

import json
import string
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentfly.vision.detection.grounding import Boxes, Unit, read_boxes

SENT, SIZE = (224, 112), (448, 336)
PIXELS = [14, 28, 56, 84]  # of the image that was sent
BOX = (28.0, 84.0, 112.0, 252.0)  # the same in the whole image
OBJECT = {"bbox_2d": PIXELS, "label": "cat", "score": 0.8}


def read(reply: object, unit: Unit = "pixels", caption: str = "cat. dog.") -> Boxes | None:
    text = reply if isinstance(reply, str) else json.dumps(reply)
    return read_boxes(text, caption, SENT, SIZE, unit)


def found(reply: object, unit: Unit = "pixels") -> list[tuple[str, float, tuple[float, ...]]]:
    boxes = read(reply, unit)
    assert boxes is not None
    assert boxes.unread is None
    return [(one.label, one.score, tuple(round(x, 6) for x in one.corners)) for one in boxes.candidates]


@pytest.mark.parametrize(
    "reply",
    [
        [OBJECT],
        OBJECT,
        {"objects": [OBJECT]},
        {"result": {"detections": [OBJECT], "count": 1}},
        {"cat": [{"bbox_2d": PIXELS, "score": 0.8}]},
        {"cat": {"bbox": PIXELS, "confidence": 0.8}},
        [[OBJECT]],
        {"bbox_2d": [PIXELS], "label": ["cat"], "score": [0.8]},
        {"bboxes": [PIXELS], "labels": ["cat"], "scores": ["0.8"]},
        {"boxes": [{"box": PIXELS, "name": "cat", "score": 0.8}]},
        {**OBJECT, "bbox_2d": [[PIXELS]]},
        {**OBJECT, "bbox_2d": [PIXELS[:2], PIXELS[2:]]},
        {**OBJECT, "bbox_2d": ["14", "28.0", " 56", "84"]},
        {**OBJECT, "bbox_2d": "14, 28, 56, 84"},
        {**OBJECT, "bbox_2d": "[14, 28, 56, 84]"},
        {**OBJECT, "bbox_2d": [56, 84, 14, 28]},
        {**OBJECT, "bbox_2d": [56, 28, 14, 84]},
        {**OBJECT, "score": "0.8"},
        {**OBJECT, "score": "80%"},
        {"label": "cat", "score": 0.8, "bounding_box": {"x1": 14, "y1": 28, "x2": 56, "y2": 84}},
        {"label": "cat", "score": 0.8, "boundingBox": {"x": 14, "y": 28, "width": 42, "height": 56}},
        {"label": "cat", "score": 0.8, "x_min": 14, "y_min": 28, "x_max": 56, "y_max": 84},
        {"label": "cat", "score": 0.8, "box_2d": [250, 62.5, 750, 250]},
        {"label": "cat", "score": 0.8, "box_2d": [750, 250, 250, 62.5]},
        {"label": "cat", "score": 0.8, "bbox_2d": [0.0625, 0.25, 0.25, 0.75]},
        {"label": "cat", "score": 0.8, "bbox_2d": ["0.0625", ".25", "0.25", "0.75"]},
        {"label": "cat", "score": 0.8, "box_2d": [0.25, 0.0625, 0.75, 0.25]},
        f"See [1] and [note]:\n```json\n{json.dumps([OBJECT])}\n```\nThat is all (see [2]).",
        f"Between [0, 0, 224, 112] I found {json.dumps(OBJECT)}.",
        f'<think>[{{"bbox_2d": [1, 1, 2, 2]}}]</think>{json.dumps([OBJECT])}',
        "[{'bbox_2d': [14, 28, 56, 84], 'label': 'cat', 'score': 0.8,},]",
        '[{bbox_2d: [14, 28, 56, 84], label: "cat", score: 0.8}]',
        json.dumps([OBJECT])[:-1],
        json.dumps([OBJECT, OBJECT])[:-30],
    ],
)
def test_one_cat_is_read_from_every_form(reply: object) -> None:
    boxes = read(reply)
    assert boxes is not None
    assert [(one.label, one.score, one.corners) for one in boxes.candidates] == [("cat", 0.8, BOX)]


def test_one_object_a_line_is_read_whole() -> None:
    lines = [{"bbox_2d": [n, n, n + 10, n + 10], "label": f"cat {n}"} for n in range(3)]
    assert len(found("\n".join(map(json.dumps, lines)))) == 3
    assert len(found("\n".join(f"```json\n{json.dumps(line)}\n```" for line in lines))) == 3


def test_several_boxes_of_one_object_have_its_labels_and_scores() -> None:
    two = [[0, 0, 10, 10], [20, 20, 30, 30]]
    assert [one[:2] for one in found({"bbox_2d": two, "label": "cat", "score": 0.5})] == [("cat", 0.5)] * 2
    labelled = found({"bbox_2d": two, "label": ["cat", "dog"], "score": [0.5, 0.25]})
    assert [one[:2] for one in labelled] == [("cat", 0.5), ("dog", 0.25)]
    assert [one[0] for one in found({"cat": [two[0]], "dog": [two[1]]})] == ["cat", "dog"]


@pytest.mark.parametrize("reply", [[PIXELS], PIXELS, "The cat is at [14, 28, 56, 84].", {"answer": [PIXELS]}])
def test_bare_numbers_are_a_box_where_nothing_else_is(reply: object) -> None:
    assert found(reply) == [("cat dog", 1.0, BOX)]


@pytest.mark.parametrize(
    ("score", "read_as"), [("9" * 400, 1.0), ("-" + "9" * 400, 0.0), ("1e999", 1.0), ("true", None)]
)
def test_a_score_of_any_size_is_clipped_and_never_an_error(score: str, read_as: float | None) -> None:
    boxes = read(f'{{"bbox_2d": [14, 28, 56, 84], "score": {score}}}')
    assert boxes is not None
    assert [one.score for one in boxes.candidates] == ([] if read_as is None else [read_as])
    assert (boxes.unread is None) == (read_as is not None)


@pytest.mark.parametrize(
    "reply",
    [
        [],
        {"objects": []},
        {"cat": [], "dog": []},
        "None of them [see the list]: []",
        {"bbox_2d": None, "label": "cat"},
        {"bbox_2d": [], "label": "cat"},
        {"bbox_2d": [0, 0, 0, 0], "label": "cat"},
        "There are no boxes in the range [0, 0, 100, 100]: []",
    ],
)
def test_a_reply_that_says_none_finds_nothing(reply: object) -> None:
    assert found(reply) == []


@pytest.mark.parametrize("reply", ["I see no cat.", "", "null", "{}", "[1]", "<think>[]", '<think>[{"bbox_2d": [1,'])
def test_a_reply_without_json_of_boxes_is_none(reply: str) -> None:
    assert read(reply) is None


@pytest.mark.parametrize(
    "reply",
    [
        {"bbox_2d": [1, 2, 3]},
        [{"bbox_2d": "1234"}],
        {"bbox_2d": [1, 2, 3, "four"]},
        {"bbox_2d": [1, 2, 3, None]},
        {"bbox_2d": [1, 2, 3, True]},
        {"bbox_2d": {"left": 1, "top": 2}},
        '{"bbox_2d": [1, 2, 3, NaN]}',
        '{"bbox_2d": [1, 2, 3, 1e999]}',
        f'{{"bbox_2d": [1, 2, 3, {"9" * 400}]}}',
        f'{{"bbox_2d": [1, 2, 3, {"9" * 5000}]}}',
        {**OBJECT, "score": "high"},
        {**OBJECT, "score": float("nan")},
        {**OBJECT, "score": [1, 2]},
        {"box_2d": [100, 200, 1500, 1900]},
        '[{"bbox_2d": [14, 28, 56, 8',
        '{"bbox_2d": [1_000, 2, 30, 40]}',
        '{"bbox_2d": [0.1+0.2, 2, 30, 40]}',
        f"[{'x' * 300_000}]",
    ],
)
def test_a_box_that_cannot_be_read_is_never_nothing_and_never_guessed(reply: object) -> None:
    boxes = read(reply)
    assert boxes is not None
    assert (boxes.candidates, boxes.unread is not None) == ([], True)


@pytest.mark.parametrize(
    ("unit", "corners", "expected", "told"),
    [
        ("pixels", [0, 0, 224, 112], (0, 0, 448, 336), "pixels"),
        # Models overshoot an edge by a little.
        ("pixels", [0, 0, 260, 120], (0, 0, 520, 360), "pixels"),
        ("pixels", [500, 500, 1000, 1000], (224, 168, 448, 336), "thousandths"),
        ("thousandths", [500, 500, 1000, 1000], (224, 168, 448, 336), "thousandths"),
        ("thousandths", [100, 100, 200, 200], (44.8, 33.6, 89.6, 67.2), "thousandths"),
        ("pixels", [5000, 5000, 6000, 6000], (10000, 15000, 12000, 18000), "pixels"),
        ("pixels", [0.5, 0.5, 1, 1], (224, 168, 448, 336), None),
        ("thousandths", [0.5, 0.5, 1, 1], (224, 168, 448, 336), None),
        ("pixels", [0, 0, 1, 1], (0, 0, 2, 3), "pixels"),
    ],
)
def test_the_unit_is_that_which_was_asked_for_unless_the_boxes_cannot_have_it(
    unit: Unit, corners: list[float], expected: tuple[float, ...], told: Unit | None
) -> None:
    boxes = read({"bbox_2d": corners, "label": "cat"}, unit)
    assert boxes is not None
    assert [one.corners for one in boxes.candidates] == [pytest.approx(expected)]
    assert boxes.unit == told


def test_large_images_are_answered_in_pixels_beyond_a_thousand() -> None:
    boxes = read_boxes('{"bbox_2d": [0, 0, 1800, 300]}', "cat.", (2000, 400), (2000, 400), "thousandths")
    assert boxes is not None
    assert boxes.unit == "pixels"
    assert boxes.candidates[0].corners == (0, 0, 1800, 300)


def test_all_boxes_of_a_reply_have_one_unit() -> None:
    reply = [{"bbox_2d": [10, 10, 20, 20]}, {"bbox_2d": [500, 500, 1000, 1000]}]
    assert [one[2] for one in found(reply)] == [(4.48, 3.36, 8.96, 6.72), (224, 168, 448, 336)]


corner = st.integers(0, 1000)
labels = st.text(string.ascii_letters + " '\"[]{},:", max_size=12)
objects = st.builds(
    lambda box, label, score: {"bbox_2d": list(box), "label": label, "score": score},
    st.tuples(corner, corner, corner, corner).filter(any),
    labels.filter(bool),
    st.floats(0, 1),
)


@given(st.lists(objects, min_size=1, max_size=5), st.sampled_from(["list", "lines", "object", "fence"]))
def test_what_was_written_is_read(written: list[dict[str, Any]], form: str) -> None:
    text = {
        "list": json.dumps(written),
        "lines": "\n".join(map(json.dumps, written)),
        "object": json.dumps({"objects": written}),
        "fence": f"Of [these]:\n```json\n{json.dumps(written, indent=1)}\n```",
    }[form]
    boxes = read_boxes(text, "cat.", (1000, 1000), (1000, 1000), "thousandths")
    assert boxes is not None
    for one, wanted in zip(boxes.candidates, written, strict=True):
        x0, y0, x1, y1 = wanted["bbox_2d"]
        assert one.corners == (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        assert (one.label, one.score) == (wanted["label"], wanted["score"])


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just([1, 2, 3, 4]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["bbox_2d", "box_2d", "label", "score", "cat", "x1"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.text() | any_json.map(json.dumps) | any_json.map(str) | st.text('[]{}",: 0123bbox_2d', max_size=80))
@example("[" * 5000)
@example('{"bbox_2d": ' * 3000)
@example('{"a":' * 500 + "[1,2,3,4]" + "}" * 500)
def test_no_reply_is_a_fault_of_ours(text: str) -> None:
    boxes = read(text)
    assert boxes is None or all(0.0 <= one.score <= 1.0 for one in boxes.candidates)


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        '{"',
        '{"bbox_2d": [1, ',
        "{'bbox_2d': [1, [\"}",
        "box",
        "box ",
        '{\'box\': ["["["["["["[1}',
        "[1,",
        "[[[1,2,3,4]",
    ],
)
def test_a_hostile_reply_takes_no_long_time(piece: str) -> None:
    started = time.process_time()
    read(piece * (190_000 // len(piece)))
    assert time.process_time() - started < 2.0
