"""Templates and parsers, on a real tokenizer and processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentfly.doctor import DoctorRequest, Examination
from agentfly.doctor.checks import model
from agentfly.templates import ChatCodec, load_template
from agentfly.templates.families import FAMILIES
from tests.tiny.families import build_family
from tests.unit.doctor.judged import judged, levels, only

GOOD = load_template("qwen2.5-vl-system-tool")


@pytest.fixture(scope="module")
def processor(tiny_policy: Path) -> Any:
    return ChatCodec.from_pretrained(str(tiny_policy)).processor


@pytest.mark.parametrize("name", [*FAMILIES["qwen2.5-vl"].templates, "qwen3-vl"])
def test_our_templates_pass(processor: Any, name: str) -> None:
    codec = ChatCodec(processor, load_template(name))
    found = [*model.check_images(codec), *model.check_prefix(codec), *model.check_parser(codec)]
    assert levels(found) == ["ok"] * 3
    shown = "warning" if name == "qwen2.5-vl" else "ok"
    assert only(model.check_schemas(codec))[0] == shown


def changed(processor: Any, old: str, new: str) -> ChatCodec:
    assert old in GOOD
    return ChatCodec(processor, GOOD.replace(old, new))


def test_a_template_that_drops_images_of_tool_turns(processor: Any) -> None:
    codec = changed(processor, "<tool_response>\\n' + body(message.content)", "<tool_response>\\n' + 'text'")
    assert only(model.check_images(codec)) == (
        "error",
        "the chat template rendered 1 of 2 images; "
        "use a template that keeps images in every turn, such as qwen2.5-vl-system-tool",
    )


def test_a_template_that_moves_images_of_tool_turns(processor: Any) -> None:
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    moved = f"<tool_response>\\n{image}' + message.content[0].text + message.content[-1].text"
    codec = changed(processor, "<tool_response>\\n' + body(message.content)", moved)
    assert "moves an image" in only(model.check_images(codec))[1]


def test_a_template_whose_past_depends_on_what_follows(processor: Any) -> None:
    codec = changed(
        processor, "'<|im_start|>system\\n' + system", "'<|im_start|>system\\n' + system + messages[-1].role"
    )
    assert only(model.check_prefix(codec))[0] == "error"


def test_a_template_that_strips_thoughts_of_earlier_turns(processor: Any) -> None:
    old = "{{- '<|im_start|>assistant\\n' + body(message.content) -}}"
    codec = changed(processor, old, old.replace("body(message.content)", "body(message.content).split('</think>')[-1]"))
    level, message = only(model.check_prefix(codec))
    assert (level, "thoughts" in message) == ("warning", True)


def test_a_template_that_forgets_calls_or_writes_them_in_a_format_of_its_own(processor: Any) -> None:
    forgetful = changed(processor, "message.tool_calls or []", "[]")
    assert "leaves out the calls" in only(model.check_parser(forgetful))[1]
    own = changed(
        processor,
        '<tool_call>\\n{"name": "\' + call.function.name + \'", ',
        '<call>{"do": "\' + call.function.name + \'", ',
    )
    assert "is not read" in only(model.check_parser(own))[1]


@pytest.mark.parametrize("opening", ["<think>\\n", "<think>\\n\\n</think>\\n\\n"])
def test_a_template_that_opens_a_thought_for_the_next_turn_has_calls_all_the_same(processor: Any, opening: str) -> None:
    codec = ChatCodec(processor, f"{GOOD}{{{{ '{opening}' if add_generation_prompt }}}}")
    assert levels(model.check_parser(codec)) == ["ok"]


def examined(**fields: Any) -> tuple[Examination, list[tuple[str, str]]]:
    examination = Examination(DoctorRequest(**fields))
    return examination, judged(model.checkpoint(examination))


@pytest.mark.slow
def test_a_checkpoint_is_loaded_once_for_all(tiny_policy: Path) -> None:
    examination, found = examined(model=str(tiny_policy), template="qwen3-vl")
    assert found[0][0] == "ok"
    assert examination.codec is not None
    assert examination.context == 4096
    checks = (model.images, model.prefix, model.schemas, model.parser, model.limits)
    assert {level for check in checks for level in levels(check(examination))} == {"ok"}


def test_what_is_no_checkpoint(tiny_policy: Path, tmp_path: Path) -> None:
    assert examined()[1][0][0] == "skipped"
    assert examined(model="gpt", base_url="http://h/v1")[1][0][0] == "skipped"
    (tmp_path / "config.json").write_text("{}")
    assert examined(model=str(tmp_path))[1][0][0] == "error"
    level, message = examined(model=str(tiny_policy), template="qwen3-v")[1][0]
    assert (level, "Did you mean 'qwen3-vl'" in message) == ("error", True)


def test_the_family_of_a_checkpoint_its_level_and_its_limits_are_told(tmp_path: Path) -> None:
    path = build_family("mistral3", tmp_path / "m", load_template("mistral3"))
    examination, found = examined(model=str(path))
    (_, loaded), (level, told), (limited, limit) = found
    assert "PixtralProcessor with the checkpoint's own template" in loaded
    assert (level, "Mistral 3, Pixtral (mistral3): token-exact rollouts on vLLM" in told) == ("ok", True)
    assert (limited, "verl/utils/tokenizer/tokenizer.py:236" in limit) == ("warning", True)
    checks = (model.images, model.prefix, model.schemas, model.parser)
    assert {level for check in checks for level in levels(check(examination))} == {"ok"}


def test_a_model_type_that_was_never_tried() -> None:
    [(level, message)] = judged(model.check_family(FAMILIES["qwen2.5-vl"], "qwen2_vl"))
    assert (level, "'qwen2_vl' was never tried" in message) == ("warning", True)
