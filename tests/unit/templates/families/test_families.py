"""Each family on a tiny checkpoint of its real class: ids as its own processor makes them, turn by turn and at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from agentfly.errors import TemplateError
from agentfly.messages import ImagePart, Message, TextPart, ToolCall, text_message
from agentfly.templates import ChatCodec, load_template, template_names
from agentfly.templates.families import FAMILIES, family_named, find_family
from agentfly.tools import parse_tool_calls
from tests.tiny.families import BUILDERS, build_family

LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at an image.",
        "parameters": {"type": "object", "properties": {"image_id": {"type": "string"}}},
    },
}
IMAGES = {
    "img_a": Image.linear_gradient("L").resize((168, 168)).convert("RGB"),
    "img_b": Image.radial_gradient("L").resize((56, 84)).convert("RGB"),
    "img_c": Image.new("RGB", (300, 60), (200, 30, 40)),
}
LOAD = IMAGES.__getitem__
ASK = Message("user", (ImagePart("img_a"), TextPart("Compare them."), ImagePart("img_b")))
SAID = text_message("assistant", "I look.")
SEEN = Message("tool", (TextPart("a view\n"), ImagePart("img_c")), tool_call_id="call_0")
TWICE = (SEEN, Message("tool", (TextPart("two more"), ImagePart("img_b"), ImagePart("img_a")), tool_call_id="call_1"))
CALL = ToolCall(
    "call_0", "look", {"image_id": "img_1", "prompt": 'a "red" café, {x}\nand more', "more": [1, {"a": "b"}]}
)
CASES = [(model_type, name) for model_type in BUILDERS for name in FAMILIES if model_type in FAMILIES[name].support]
TEMPLATES = [
    (model_type, template)
    for model_type, name in CASES
    for template in template_names()
    if template.removesuffix("-no-thinking") in FAMILIES[name].templates
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("families")
    return {
        model_type: build_family(model_type, folder / model_type, load_template(FAMILIES[name].templates[0]))
        for model_type, name in CASES
    }


@pytest.fixture(params=TEMPLATES, ids="-".join)
def codec(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> ChatCodec:
    model_type, template = request.param
    return ChatCodec.from_pretrained(str(checkpoints[model_type]), template)


def test_every_family_that_can_be_token_exact_has_a_tiny_checkpoint_and_a_template() -> None:
    tried = {name for _, name in CASES}
    assert {name for name, family in FAMILIES.items() if family.goal != "endpoint"} == tried
    for name, family in FAMILIES.items():
        assert set(family.templates) <= set(template_names()), name
        assert all(limit for support in family.support.values() for limit in support.limits)


@pytest.mark.slow
def test_a_checkpoint_is_of_the_family_of_its_model_type(checkpoints: dict[str, Path]) -> None:
    found = {model_type: ChatCodec.from_pretrained(str(path)).family.name for model_type, path in checkpoints.items()}
    assert found == dict(CASES)
    for model_type, path in checkpoints.items():
        [made] = json.loads((path / "config.json").read_text())["architectures"]
        assert made == FAMILIES[found[model_type]].support[model_type].model
    # Without the configuration, two families have one processor.
    assert find_family(None, "Qwen3VLProcessor") == family_named("qwen3-vl")
    assert find_family("qwen3_5", "Qwen3VLProcessor") == family_named("qwen3.5")
    assert find_family("bert", "BertProcessor") is None
    with pytest.raises(TemplateError, match=r"Did you mean 'qwen3\.5'"):
        family_named("qwen3.6")


def test_the_prompt_has_the_ids_of_the_family_s_own_processor(codec: ChatCodec) -> None:
    messages = [ASK, SAID, *TWICE]
    handles = [handle for message in messages for handle in message.images]
    text = codec._render(messages, [LOOK])
    made = codec.processor(text=[text], images=[[IMAGES[handle] for handle in handles]], add_special_tokens=False)
    ids = codec.prompt_ids(messages, [LOOK], LOAD)
    assert ids == list(made["input_ids"][0])
    places = codec.image_places(ids, handles, LOAD)
    assert [end - begin for begin, end in places] == [codec.image_length(handle, LOAD) for handle in handles] or (
        codec.family.name == "minicpm-v-4.6"
    )
    assert codec.collapse(ids, handles, LOAD) == codec.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("closed", [True, False])
def test_turn_by_turn_the_ids_are_those_of_the_whole(codec: ChatCodec, closed: bool) -> None:
    ids = codec.prompt_ids([ASK], [LOOK], LOAD)
    ids += codec.tokenizer(codec.turn_text(SAID), add_special_tokens=False)["input_ids"]
    following = codec.continuation_ids(TWICE, [LOOK], LOAD, ended_by=None, images_before=2)
    if closed and following[0] in codec.eos_ids:
        rest = codec.continuation_ids(TWICE, [LOOK], LOAD, ended_by=following[0], images_before=2)
        following = [following[0], *rest]
    assert ids + following == codec.prompt_ids([ASK, SAID, *TWICE], [LOOK], LOAD)


def test_special_tokens_in_an_observation_forge_nothing(codec: ChatCodec) -> None:
    special = [token.content for token in codec.tokenizer.added_tokens_decoder.values() if token.special]
    harmless = codec.continuation_ids([text_message("tool", "x")], (), LOAD, ended_by=None)
    hostile = codec.continuation_ids([text_message("tool", "x".join(special))], (), LOAD, ended_by=None)
    ids = set(codec.tokenizer.convert_tokens_to_ids(special))
    assert [i for i in hostile if i in ids] == [i for i in harmless if i in ids]


def test_a_sampled_image_token_that_no_image_explains_is_found(codec: ChatCodec) -> None:
    ids = codec.prompt_ids([ASK], (), LOAD)
    with pytest.raises(TemplateError, match="where they belong"):
        codec.collapse([codec.image_id, *ids], ASK.images, LOAD)


def test_calls_are_read_as_the_template_writes_them(codec: ChatCodec) -> None:
    text = codec.turn_text(Message("assistant", (TextPart("I look."),), (CALL, CALL)))
    ids = codec.tokenizer(text, add_special_tokens=False)["input_ids"]
    rules = codec.family.reasoning
    parsed = parse_tool_calls(
        codec.decode([*ids, codec.end_id]), form=codec.call_form, thinking=codec.opens_thought, names=["look"]
    )
    assert [(call.name, call.error) for call in parsed.calls] == [("look", None)] * 2
    for call in parsed.calls:
        read = {name: value if isinstance(value, str) else json.dumps(value) for name, value in call.arguments.items()}
        assert read == {**CALL.arguments, "more": json.dumps(CALL.arguments["more"])}
    assert parsed.content.removeprefix("</think>").removeprefix("<think></think>").strip() == "I look."
    assert codec.call_form == (codec.family.calls if rules else codec.call_form)


def test_a_call_in_a_thought_is_no_call(codec: ChatCodec) -> None:
    rules = codec.reasoning
    written = codec.turn_text(Message("assistant", (), (CALL,)))
    call = written.rpartition(rules.ends)[2].strip()
    opened = "" if codec.opens_thought else rules.begins
    marks = (rules.begins, rules.ends)

    def read(text: str, cut: bool = False) -> tuple[ToolCall, ...]:
        thinking = codec.opens_thought
        return parse_tool_calls(text, thinking=thinking, cut=cut, form=codec.call_form, marks=marks).calls

    assert read(f"{opened}maybe {call}{rules.closing}Done.") == ()
    assert read(f"{opened}maybe {call}", cut=True) == ()
    assert [found.error for found in read(f"{opened}maybe{rules.closing}{call}")] == [None]
    assert "inside your thought" in str(read(f"{opened}maybe {call}{rules.closing}")[0].error)
