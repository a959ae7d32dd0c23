"""OpenAI's rows have the ids of the rollout; rows that cannot be used are named by their lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.errors import DatasetError
from agentfly.images import ImageStore, data_uri
from agentfly.templates import ChatCodec
from agentfly.training.supervised.data.examples import IGNORED
from agentfly.training.supervised.data.samples import openai_samples, trajectory_sample

CALL = {"id": "c", "type": "function", "function": {"name": "give_answer", "arguments": '{"final_image_id": "img_1"}'}}


def user(text: str = "hi") -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(**more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [CALL]} | more


def read(tmp_path: Path, codec: ChatCodec, *rows: Any) -> list[Any]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return list(openai_samples(path, codec, ImageStore()))


@pytest.mark.parametrize("inline", [True, False])
async def test_a_rollout_told_as_a_row_has_the_ids_of_the_rollout(
    play: Any, codec: ChatCodec, tmp_path: Path, inline: bool
) -> None:
    log = await play("brighten", codec=codec)
    trajectory = log.trajectories[0]

    def url(handle: str) -> str:
        if not inline:
            log.store.get(handle).save(tmp_path / f"{handle}.png")
            return f"{handle}.png"
        return data_uri(log.store.get(handle))

    row = {"messages": [message.to_openai(url) for message in trajectory.messages], "tools": trajectory.tools}
    (sample,) = read(tmp_path, codec, row)
    wanted = trajectory_sample(trajectory, codec, log.store.get)
    assert sample.ids.tolist() == wanted.ids.tolist()
    assert sample.labels.tolist() == wanted.labels.tolist()
    assert sample.images == wanted.images
    assert sample.task == wanted.task
    assert len(sample.load().grids) == 2


def test_images_beside_the_messages_are_learned_in_their_places(codec: ChatCodec, tmp_path: Path) -> None:
    Image.new("RGB", (56, 56), "red").save(tmp_path / "a.png")
    inside = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Hi."}]}
    one, other = read(
        tmp_path,
        codec,
        {"messages": [user("<image>Hi."), assistant()], "images": ["a.png"]},
        {"messages": [inside, assistant()]},
    )
    assert one.ids.tolist() == other.ids.tolist()
    assert len(one.images) == 1


def test_a_turn_of_weight_zero_is_only_read(codec: ChatCodec, tmp_path: Path) -> None:
    spoken = {"role": "assistant", "content": "one", "weight": 0}
    (sample,) = read(tmp_path, codec, {"messages": [user(), spoken, user(), {"role": "assistant", "content": "two"}]})
    assert codec.decode(sample.ids[sample.labels != IGNORED].tolist()) == "two"


def learned(codec: ChatCodec, sample: Any) -> str:
    return codec.decode(sample.ids[sample.labels != IGNORED].tolist())


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_the_thought_of_a_turn_is_learned_before_its_words(codec: ChatCodec, tmp_path: Path, name: str) -> None:
    turn = {"role": "assistant", "content": "a circle", name: "\nIt is round.\n"}
    told = {"role": "assistant", "content": "<think>\nIt is round.\n</think>\n\na circle"}
    apart, inside = read(tmp_path, codec, {"messages": [user(), turn]}, {"messages": [user(), told]})
    assert "<think>\nIt is round.\n</think>" in learned(codec, apart)
    assert apart.ids.tolist() == inside.ids.tolist()
    assert apart.labels.tolist() == inside.labels.tolist()


def test_the_thought_of_a_call_is_learned_before_the_call(codec: ChatCodec, tmp_path: Path) -> None:
    thinking, plain = read(
        tmp_path,
        codec,
        {"messages": [user(), assistant(reasoning_content="It is round.")]},
        {"messages": [user(), assistant(reasoning_content=None)]},
    )
    assert learned(codec, thinking).endswith(learned(codec, plain))
    assert learned(codec, thinking).startswith("<think>\nIt is round.\n</think>\n")


def test_thoughts_of_earlier_turns_stay_as_they_do_in_a_rollout(codec: ChatCodec, tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": n, "reasoning_content": f"thought {n}"} for n in ("one", "two")]
    (sample,) = read(tmp_path, codec, {"messages": [user(), turns[0], user(), turns[1]]})
    assert learned(codec, sample).count("<think>") == 2


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "line 2"),
        ("[" * 100_000, "line 2"),
        (
            {"messages": [user(), assistant(reasoning_content=["It is round."])]},
            "'reasoning_content' is text, not list",
        ),
        (
            {"messages": [user(), assistant(content="<think>a</think>b", reasoning="c")]},
            "thoughts in 'content' and in 'reasoning'",
        ),
        ([], "list of 'messages'"),
        ({"messages": [user()]}, "assistant must speak"),
        ({"messages": [assistant()]}, "not first"),
        ({"messages": [user(), assistant(), assistant()]}, "follow each other"),
        (
            {"messages": [user(), assistant(tool_calls=[{"function": {"name": "x", "arguments": "{"}}])]},
            "cannot be learned",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}
                ]
            },
            "download them first",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "image": "none.png"}]}]}, "none.png"),
        ({"messages": [user("<image>hi"), assistant()]}, "there is no image"),
        ({"messages": [user("<image>hi"), assistant()], "images": None}, "there is no image"),
        ({"messages": [user(), assistant()], "images": ["a.png"]}, "0 places"),
        ({"messages": [user(), assistant()], "images": "a.png"}, "0 places"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(codec: ChatCodec, tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as fault:
        read(tmp_path, codec, {"messages": [user(), assistant()]}, row)
    assert "line 2" in str(fault.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_rows_are_read_in_the_encoding_that_they_are_in(codec: ChatCodec, tmp_path: Path, encoding: str) -> None:
    spoken = {"role": "assistant", "content": "Tür"}
    text = json.dumps({"messages": [user(), spoken], "rank": float("nan")}, ensure_ascii=False)
    (tmp_path / "rows.jsonl").write_bytes(text.encode(encoding))
    (sample,) = openai_samples(tmp_path / "rows.jsonl", codec, ImageStore())
    assert codec.decode(sample.ids[sample.labels != IGNORED].tolist()) == "Tür"


@pytest.mark.parametrize("content", ["T\udcfcr", r"half \ud83d"])
def test_a_row_that_holds_no_text_is_named(codec: ChatCodec, tmp_path: Path, content: str) -> None:
    good = json.dumps({"messages": [user(), {"role": "assistant", "content": "x"}]})
    (tmp_path / "rows.jsonl").write_bytes(f"{good}\n{good.replace('x', content)}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 2: .*(save it as UTF-8|surrogate pair)"):
        list(openai_samples(tmp_path / "rows.jsonl", codec, ImageStore()))


def test_a_file_that_is_not_there_is_named(codec: ChatCodec, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.jsonl cannot be read"):
        list(openai_samples(tmp_path / "gone.jsonl", codec, ImageStore()))
