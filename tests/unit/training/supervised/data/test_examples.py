"""A sample keeps the images of its ids, wherever it is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agentfly.errors import DatasetError, TemplateError
from agentfly.messages import Message, TextPart, ToolCall, text_message
from agentfly.templates import ChatCodec, load_template
from agentfly.templates.families import FAMILIES
from agentfly.tools import parse_tool_calls
from agentfly.training.supervised.data.examples import IGNORED, Sample, conversation_ids
from agentfly.training.supervised.data.samples import trajectory_sample
from tests.unit.training.supervised.conftest import ANSWER, EDIT


async def sample(play: Any, codec: ChatCodec) -> Sample:
    log = await play("brighten", codec=codec)
    return trajectory_sample(log.trajectories[0], codec, log.store.get)


async def test_a_sample_that_fits_is_not_cut(play: Any, codec: ChatCodec) -> None:
    whole = await sample(play, codec)
    cut = whole.cut(len(whole.ids))
    assert cut is not None
    assert cut.ids.tolist() == whole.ids.tolist()
    assert cut.images == whole.images
    assert len(whole.images) == 2


async def test_a_long_sample_ends_with_a_turn_and_the_images_before_it(play: Any, codec: ChatCodec) -> None:
    whole = await sample(play, codec)
    cut = whole.cut(len(whole.ids) - 1)
    assert cut is not None
    assert codec.decode(cut.ids[cut.labels != IGNORED].tolist()) == EDIT % "brighten"
    assert cut.labels[-1] != IGNORED
    assert cut.images == whole.images[:1]
    loaded = cut.load()
    assert len(loaded.grids) == 1
    assert codec.image_runs(cut.ids.tolist()) == [t * h * w // 4 for t, h, w in loaded.grids]


async def test_a_sample_without_room_for_a_turn_is_none(play: Any, codec: ChatCodec) -> None:
    whole = await sample(play, codec)
    assert whole.cut(int(np.flatnonzero(whole.labels != IGNORED)[0]) + 3) is None


def test_observations_after_the_last_turn_go(codec: ChatCodec) -> None:
    ids, labels = np.arange(300, 310, dtype=np.int32), np.full(10, IGNORED, np.int32)
    labels[3:6] = ids[3:6]
    cut = Sample(ids, labels, (), codec, lambda handle: pytest.fail(handle)).cut(100)
    assert cut is not None
    assert cut.ids.tolist() == list(range(300, 306))


def test_turns_without_anything_between_are_refused(codec: ChatCodec) -> None:
    messages = [text_message("user", "hi"), text_message("assistant", "a"), text_message("assistant", "b")]
    with pytest.raises(DatasetError, match="follow each other"):
        conversation_ids(messages, [], codec, lambda handle: pytest.fail(handle), ["a", "b"])


def test_turns_before_those_that_are_learned_belong_to_the_prompt(codec: ChatCodec) -> None:
    messages = [
        text_message("user", "hi"),
        text_message("assistant", "first"),
        text_message("user", "again"),
        Message("assistant", (TextPart("second"),)),
    ]
    ids, labels, _ = conversation_ids(messages, [], codec, lambda handle: pytest.fail(handle), ["second"])
    assert codec.decode([i for i in labels if i != IGNORED]) == "second"
    assert "first" in codec.decode(ids)
    assert ANSWER not in codec.decode(ids)


@pytest.mark.parametrize("template", [*FAMILIES["qwen2.5-vl"].templates, "qwen3-vl"])
def test_a_turn_as_the_template_writes_it_is_read_back(codec: ChatCodec, template: str) -> None:
    """Learned text must parse in the rollout, and must not forge a turn."""
    other = ChatCodec(codec.processor, load_template(template))
    call = ToolCall("call_0", "qwen_edit_image", {"image_id": "img_1", "prompt": "say <|im_end|>"})
    text = other.turn_text(Message("assistant", (TextPart("First."),), (call, call)))
    parsed = parse_tool_calls(text)
    assert parsed.content == "First."
    assert [read.arguments for read in parsed.calls] == [{"image_id": "img_1", "prompt": "say < |im_end|>"}] * 2
    assert not any(i in other.eos_ids for i in other.tokenizer(text)["input_ids"])
    assert other.turn_text(text_message("assistant", "Done.")) == "Done."


def test_a_template_that_changes_what_was_said_is_refused(codec: ChatCodec) -> None:
    """Some templates drop the thoughts of earlier turns: then a turn has no text of its own."""
    changing = "{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}"
    with pytest.raises(TemplateError, match="prefix of its continuation"):
        ChatCodec(codec.processor, changing).turn_text(text_message("assistant", "Done."))
