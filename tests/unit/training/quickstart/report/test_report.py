"""The page of a run: complete, self-contained, and deaf to what a policy writes."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from agentfly.agents.trajectory import StopReason, ToolRecord, Trajectory, Turn
from agentfly.evaluation.report.html import image_uri
from agentfly.messages import text_message
from agentfly.training.quickstart.report import Example, Report, StepRecord, learning_curve, write_report
from tests.unit.training.quickstart.report.made_up import FAMILIES, examples, photo, summary, trajectory

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _page(folder: Path, report: Report) -> Page:
    return Page(write_report(folder / "new" / "report.html", report))


def _one(chain: Trajectory, instruction: str = "Remove it") -> Report:
    return Report("t", {}, None, [Example("look", instruction, photo(0), None, [("trained", chain, None)])])


def test_page_names_every_family_score_and_interval(tmp_path: Path) -> None:
    content = summary()
    text = _page(tmp_path, Report("A run", content, None, examples(6))).text
    for policy in ("warm_start", "trained"):
        for mode in ("greedy", "sampled"):
            for family in FAMILIES:
                found = content[policy][mode]["score_by_family"][family]
                assert f"{found['mean']:.1f} {found['low']:.1f} to {found['high']:.1f}" in text
    assert all(family in text for family in FAMILIES)
    assert "91.5" in text
    assert "31.2" in text
    assert "14.0 to 31.0" in text  # blanked images
    assert "0.0004" in text
    assert "max_turns" in text
    assert "auto_mask_dilate" in text


def test_gallery_tells_calls_arguments_and_observations(tmp_path: Path) -> None:
    text = _page(tmp_path, Report("A run", summary(), None, examples(1))).text
    assert "Remove the red circle number 0" in text
    assert 'text_prompt="the red circle", box_threshold=0.35' in text.replace("( ", "(")
    assert "mask_1: red circle 0.91 [classical]" in text
    assert "no image" in text
    assert "preservation 0.97" in text


def test_observations_stand_at_their_own_call_when_the_prompt_has_earlier_turns(tmp_path: Path) -> None:
    chain = trajectory(50.0)
    chain.messages = [*chain.messages[:2], *chain.messages]
    text = _page(tmp_path, _one(chain)).text
    assert (
        text.index("detect_objects") < text.index("mask_1: red circle") < text.index("inpaint") < text.index("filled")
    )


def test_observation_that_never_reached_the_policy_is_told_from_the_record(tmp_path: Path) -> None:
    failed = ToolRecord("inpaint", {"image_id": "img_9"}, 0.0, error="unknown image id 'img_9'")
    chain = trajectory(0.0)
    chain.turns[-1] = Turn("…", "stop", 0.1, (failed,))
    assert "unknown image id 'img_9'" in _page(tmp_path, _one(chain)).text


@pytest.mark.slow
def test_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    curve = learning_curve([StepRecord(1, 1.0, 0.5, 50, 0.5, 3)], tmp_path / "curve.png", title="t")
    page = _page(tmp_path, Report("A run", summary(), curve, examples(3)))
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert len(sources) == 1 + 3 * 3
    assert all(value.startswith("data:image/") for value in sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert any("default-src 'none'" in value for _, value in page.attributes)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = '</code><script>alert(1)</script><img src=x onerror=alert(2)>" style="x" {{ 7 * 7 }} \ud800'
    chain = trajectory(10.0, observation=evil)
    chain.answer = chain.error = evil
    chain.aspects = {evil: 0.5}
    call = ToolRecord(evil, {evil: evil}, 0.0, evil, evil)
    chain.turns[1] = Turn(evil, "stop", 0.1, (call, ToolRecord("", {}, 0.0, "", evil, malformed=True)))
    chain.turns[2] = Turn(evil, "stop", 0.1)
    content = {**summary(), "versions": {evil: evil}, "algorithm": evil}
    content["trained"]["sampled"]["choices"]["tool"][evil] = 3
    report = Report(evil, content, None, [Example(evil, evil, photo(0), None, [(evil, chain, None)])])
    page = _page(tmp_path, report)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("img") == 1
    assert "{{ 7 * 7 }}" in page.text


def test_long_text_of_a_policy_is_cut(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", _one(trajectory(10.0, observation="x" * 100_000)))
    assert path.stat().st_size < 40_000
    assert "more characters" in path.read_text(encoding="utf-8")


def test_turn_without_a_call_is_shown(tmp_path: Path) -> None:
    words = "I cannot see a circle"
    chain = Trajectory("t", "g", [text_message("assistant", words)], [Turn(words, "stop", 0.1)])
    chain.stop_reason = StopReason.NO_TOOL_CALL
    assert "I cannot see a circle no tool call" in _page(tmp_path, _one(chain)).text


@pytest.mark.parametrize("missing", ["algorithm", "minutes", "warm_start", "trained", "gain", "blanked", "seconds"])
def test_missing_figures_leave_the_rest_of_the_page(tmp_path: Path, missing: str) -> None:
    content = {key: value for key, value in summary().items() if key != missing}
    assert "0.9.1" in _page(tmp_path, Report("A run", content)).text


def test_evaluation_of_one_mode_or_of_no_tasks_does_not_break_the_page(tmp_path: Path) -> None:
    nothing = {"mean": float("nan"), "low": float("nan"), "high": float("nan")}
    content = {"trained": {"sampled": {"score": nothing, "success": {"all": nothing}}}}
    text = _page(tmp_path, Report("A run", content)).text
    assert "not compared" in text
    assert "nan" not in text


def test_empty_summary_gives_a_page(tmp_path: Path) -> None:
    assert "not compared" in _page(tmp_path, Report("A run", {})).text


def test_twenty_examples_stay_under_five_megabytes(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", Report("A run", summary(), None, examples(20)))
    assert path.stat().st_size < 5_000_000


def test_masks_stay_exact_and_large_images_shrink() -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (10, 10, 30, 30))
    kind, data = image_uri(mask).split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == mask.tobytes()
    large = Image.new("RGB", (2000, 1000), "red")
    assert Image.open(io.BytesIO(base64.b64decode(image_uri(large).split(",")[1]))).size == (336, 168)
    assert large.size == (2000, 1000)


@pytest.mark.slow
def test_viewer_is_light_to_import() -> None:
    heavy = "{'torch', 'vllm', 'verl', 'ray', 'transformers', 'matplotlib', 'cv2'}"
    code = f"import sys, agentfly.training.quickstart.report; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
