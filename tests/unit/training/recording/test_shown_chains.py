"""The few chains that the loggers get: which ones, and how they are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentfly.agents import StopReason
from agentfly.errors import ImageError
from agentfly.images import ImageStore, encode_image
from agentfly.training.recipe.record_settings import ShownChains
from agentfly.training.recording.image_budget import ImageBudget
from agentfly.training.recording.recorder import ChainRecorder
from agentfly.training.recording.shown_chains import ChainFacts, choose, draw, new_chains
from tests.unit.training.recording.records import record

KINDS = ShownChains().kinds


def write(folder: Path, *chains: dict[str, Any]) -> Path:
    recorder = ChainRecorder(folder / "trajectories.jsonl", ImageBudget(folder / "images", None, 10))
    for number, chain in enumerate(chains):
        recorder.record(record(**{"name": f"chain-{number}", **chain}))
    assert recorder.drain(60.0)
    return folder / "trajectories.jsonl"


def facts(*rewards: float | None, **alarms: str) -> list[ChainFacts]:
    return [ChainFacts(n, reward, alarms.get(f"at_{n}", ""), False) for n, reward in enumerate(rewards)]


def chosen(chains: list[ChainFacts], seed: str = "0") -> dict[str, int]:
    return {kind: chain.start for kind, chain in choose(chains, KINDS, seed)}


def test_best_worst_alarmed_and_one_at_random_are_four_chains() -> None:
    chains = facts(0.4, 0.9, 0.1, 0.5, 0.6, None, at_3="failed call", at_5="lost: not scored")
    found = chosen(chains)
    assert (found["best"], found["worst"], found["alarm"]) == (1, 2, 5)
    assert found["random"] in (0, 3, 4)
    # The same run chooses the same chains, and another step others.
    assert chosen(chains) == found
    assert len({chosen(chains, f"0-{step}")["random"] for step in range(20)}) == 3


def test_kinds_that_no_chain_has_are_left_out() -> None:
    assert chosen(facts(0.5)) == {"best": 0}
    assert chosen(facts(None, at_0="lost: not scored")) == {"alarm": 0}
    assert chosen([]) == {}
    assert choose(facts(0.1, 0.2), ("worst",), "0") == [("worst", facts(0.1)[0])]


def test_the_log_says_what_is_wrong_with_a_chain(tmp_path: Path) -> None:
    log = write(
        tmp_path,
        {},
        {"reward": None, "score": None},
        {"stop_reason": StopReason.TOOL_OUTAGE, "reward": None},
        {"tool": {"malformed": True, "error": "no JSON"}},
        {"tool": {"error": "the mask is empty"}},
        {"validate": True},
    )
    found, _ = new_chains(log, 0)
    assert [(chain.alarm, chain.validate) for chain in found] == [
        ("", False),
        ("lost: not scored", False),
        ("stopped: tool_outage", False),
        ("malformed call", False),
        ("failed call", False),
        ("", True),
    ]


def test_chains_are_read_once_and_a_line_in_the_making_later(tmp_path: Path) -> None:
    assert new_chains(tmp_path / "trajectories.jsonl", 0) == ([], 0)
    log = write(tmp_path, {}, {})
    whole = log.read_bytes()
    log.write_bytes(whole[:-30])
    found, place = new_chains(log, 0)
    assert len(found) == 1
    log.write_bytes(whole)
    found, end = new_chains(log, place)
    assert [chain.start for chain in found] == [place]
    assert new_chains(log, end) == ([], len(whole))


def test_chains_without_images_are_not_shown(tmp_path: Path) -> None:
    log = write(tmp_path, {}, {"images": []})
    data = json.loads(log.read_text().splitlines()[0])
    log.write_text(log.read_text() + json.dumps({**data, "images_kept": False}) + "\n")
    assert len(new_chains(log, 0)[0]) == 1


def test_a_chain_is_source_and_result_with_its_numbers(tmp_path: Path) -> None:
    log = write(tmp_path, {"step": 7, "instruction": "Make the\nsky  darker.", "side": 200})
    [chain], _ = new_chains(log, 0)
    shown = draw(log, ImageStore(tmp_path / "images"), "best", chain, ShownChains(side=100))
    assert shown.caption == ("step 7, best: reward 0.50, score 50, answered | Make the sky darker. | chain chain-0")
    assert shown.image.width == 2 * (100 + 2 * 17)
    assert shown.image.height > 100


def test_a_chain_without_result_is_its_source(tmp_path: Path) -> None:
    log = write(tmp_path, {"final_image": None, "stop_reason": StopReason.MAX_TURNS, "reward": None, "score": None})
    [chain], _ = new_chains(log, 0)
    shown = draw(log, ImageStore(tmp_path / "images"), "validation_alarm", chain, ShownChains(side=100))
    assert shown.caption.startswith("step 1, validation alarm: max turns, lost: not scored | Make it blue.")
    assert shown.image.width == 100 + 2 * 17


def test_captions_of_anybody_are_short_and_hold_no_markup(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> [x](javascript:alert(1)) `\x1b[2J\u202e" + "W" * 5000 + "\n# head |"
    log = write(tmp_path, {"name": "<b>" * 100, "instruction": hostile})
    [chain], _ = new_chains(log, 0)
    shown = draw(log, ImageStore(tmp_path / "images"), "worst", chain, ShownChains())
    assert len(shown.caption) < 400
    assert not set("<>`[]\x1b\u202e\n") & set(shown.caption)
    assert shown.image.height < 320 + 200


@pytest.mark.slow
def test_a_large_image_is_scaled_down_to_the_size_that_is_allowed(tmp_path: Path) -> None:
    log = write(tmp_path, {"side": 400})
    [chain], _ = new_chains(log, 0)
    store = ImageStore(tmp_path / "images")
    large, small = (draw(log, store, "best", chain, ShownChains(side=400, max_kb=kb)).image for kb in (10_000, 60))
    assert len(encode_image(small)) <= 60_000 < len(encode_image(large))


def test_a_missing_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    log = write(tmp_path, {})
    [chain], _ = new_chains(log, 0)
    for path in (tmp_path / "images").glob("*.png"):
        path.unlink()
    with pytest.raises(ImageError, match="no image 'img_"):
        draw(log, ImageStore(tmp_path / "images"), "best", chain, ShownChains())


@pytest.mark.parametrize("damage", ['{"torn": ', "[1, 2]", '{"trajectory": null}', "\ufffd"])
def test_a_damaged_line_does_not_hide_those_after_it(tmp_path: Path, damage: str) -> None:
    log = write(tmp_path, {}, {})
    first, second = log.read_text().splitlines()
    log.write_text(f"{first}\n{damage}\n{second}\n")
    found, place = new_chains(log, 0)
    assert [json.loads(log.read_bytes()[chain.start :].splitlines()[0]) for chain in found] == [
        json.loads(first),
        json.loads(second),
    ]
    assert place == log.stat().st_size
