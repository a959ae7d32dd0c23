"""The load-test command."""

from __future__ import annotations

import json

import pytest

from agentfly.vision.remote.load_test import main, make_image
from tests.unit.vision.remote.fake_node import FakeNode, says, status


def run(*flags: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(flags))
    return int(caught.value.code or 0)


def address(node: FakeNode) -> str:
    return f"{node.address[0]}:{node.address[1]}"


def test_report_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeNode().up() as one, FakeNode().up() as two:
        code = run(
            "--nodes", address(one), address(two), "--requests", "12", "--concurrency", "3", "--size", "32", "--json"
        )
    report = json.loads(capsys.readouterr().out)
    assert (code, report["answered"], report["pool"]["answered"]) == (0, 12, 12)
    assert report["p50"] <= report["p99"] < 10
    assert {form["seed"] for form in one.forms + two.forms} == {str(number) for number in range(12)}


def test_operations_are_taken_in_turn() -> None:
    with FakeNode().up() as node:
        node.script.extend([node.otherwise, node.otherwise, says({"data": []})])
        code = run(
            "--nodes",
            address(node),
            "--requests",
            "3",
            "--concurrency",
            "1",
            "--operations",
            "edit",
            "inpaint",
            "detect",
        )
    assert code == 0
    assert [("mask" in form, "box_threshold" in form) for form in node.forms] == [
        (False, False),
        (True, False),
        (False, True),
    ]


def test_unanswered_requests_are_told_and_fail_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeNode().up() as node:
        node.otherwise = status(422, "this cannot be done")
        assert run("--nodes", address(node), "--requests", "2", "--size", "32") == 1
    assert "2 x this cannot be done" in capsys.readouterr().out


def test_a_wrong_address_is_told_in_the_words_of_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="error: --nodes: 'localhost' has no port"):
        main(["--nodes", "localhost"])


def test_image_has_something_to_find() -> None:
    image, mask = make_image(64)
    assert image.size == mask.size == (64, 64)
    assert mask.getbbox() is not None
