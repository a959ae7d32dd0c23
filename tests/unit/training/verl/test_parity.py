"""The trainer sees the very images of the rollout, and a difference names the chain, the turn and the image."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.agents import RolloutLimits, StopReason, Trajectory
from agentfly.errors import TrainingError
from agentfly.images import handle_of, on_white
from agentfly.templates import ChatCodec
from agentfly.training.verl import parity
from agentfly.training.verl.parity import ImageInputs, check_images, digest
from tests.unit.training.chains import ANSWER, call, good_edit, roll, task_of

torch = pytest.importorskip("torch")


def make_image(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 4), np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.fixture(scope="module")
def chain(policy_codec: ChatCodec) -> Any:
    """A chain with an image in its prompt, and one after each of its first two turns."""
    task = task_of()
    more = call("qwen_edit_image", image_id="img_2", prompt="brighten")
    return asyncio.run(roll(task, [good_edit(task), more, ANSWER], policy_codec))


def test_inputs_are_what_the_processor_gives_for_all_images_at_once(policy_codec: ChatCodec) -> None:
    images = [make_image(168, 168), make_image(60, 200, 1), make_image(300, 90, 2, "L"), make_image(56, 57, 3, "RGBA")]
    handles = [handle_of(each) for each in images]
    rgb = [on_white(each) for each in images]
    processor: Any = policy_codec.processor  # its protocol names no more than the codec uses
    expected = processor(text=["<|image_pad|>" * 4], images=rgb, return_tensors="pt")
    ids = expected["input_ids"]
    made = ImageInputs(policy_codec).of(handles, images, ids)
    assert made["image_grid_thw"].tolist() == expected["image_grid_thw"].tolist()
    assert len({tuple(grid) for grid in made["image_grid_thw"].tolist()}) == 4
    assert torch.equal(made["pixel_values"], expected["pixel_values"])
    assert made["images_seqlens"].tolist() == [int(grid.prod()) for grid in made["image_grid_thw"]]
    assert made["mm_token_type_ids"].shape == ids.shape
    assert int(made["mm_token_type_ids"].sum()) == int((ids == policy_codec.image_id).sum())
    assert [int(grid.prod()) // 4 for grid in made["image_grid_thw"]] == [
        policy_codec.image_length(handle, dict(zip(handles, images, strict=True)).__getitem__) for handle in handles
    ]


def test_a_chain_without_images_has_no_inputs(policy_codec: ChatCodec) -> None:
    # verl asks for the kinds of all tokens, and takes them out.
    (kinds,) = ImageInputs(policy_codec).of([], [], torch.tensor([1, 2])).values()
    assert kinds.tolist() == [0, 0]


def test_an_image_goes_through_the_processor_once(policy_codec: ChatCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, one, two = ImageInputs(policy_codec), make_image(84, 84), make_image(84, 84, 1)
    seen: list[int] = []
    original = inputs._processor

    def processor(**named: Any) -> Any:
        seen.append(1)
        return original(**named)

    monkeypatch.setattr(inputs, "_processor", processor)
    ids = torch.tensor([policy_codec.image_id])
    first = inputs.of([handle_of(one), handle_of(two)], [one, two], ids)
    again = inputs.of([handle_of(two), handle_of(one)], [two, one], ids)
    assert len(seen) == 2
    half = len(first["pixel_values"]) // 2
    assert torch.equal(first["pixel_values"][:half], again["pixel_values"][half:])


def test_memory_of_images_is_bounded(policy_codec: ChatCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "CACHED_IMAGES", 2)
    inputs, ids = ImageInputs(policy_codec), torch.tensor([policy_codec.image_id])
    for seed in range(4):
        made = make_image(84, 84, seed)
        inputs.of([handle_of(made)], [made], ids)
    assert inputs._of.cache_info().currsize == 2


def test_an_image_that_has_changed_is_named(policy_codec: ChatCodec) -> None:
    good, changed = make_image(84, 84), make_image(84, 84, 1)
    with pytest.raises(TrainingError, match=f"{handle_of(good)} has become {handle_of(changed)}"):
        ImageInputs(policy_codec).of([handle_of(good)], [changed], torch.tensor([1]))


def inputs_of(chain: Any, codec: ChatCodec) -> tuple[Trajectory, list[int], Any]:
    trajectory, store = chain
    assert trajectory.tokens is not None
    ids = trajectory.tokens.ids
    images = [store.get(handle) for handle in trajectory.images]
    return trajectory, ids, ImageInputs(codec).of(trajectory.images, images, torch.tensor(ids))["image_grid_thw"]


def test_a_true_chain_passes(chain: Any, policy_codec: ChatCodec) -> None:
    trajectory, ids, grids = inputs_of(chain, policy_codec)
    assert len(trajectory.images) == 3
    check_images(trajectory, ids, grids, policy_codec)


@pytest.mark.parametrize(("index", "where"), [(0, "prompt"), (1, "after turn 0"), (2, "after turn 1")])
@pytest.mark.parametrize("more", [1, -1])
def test_one_placeholder_too_many_or_few_is_named(
    index: int, where: str, more: int, chain: Any, policy_codec: ChatCodec
) -> None:
    trajectory, ids, grids = inputs_of(chain, policy_codec)
    starts = [
        i for i, token in enumerate(ids) if token == policy_codec.image_id and ids[i - 1] != policy_codec.image_id
    ]
    start = starts[index]
    wrong = [*ids[:start], policy_codec.image_id, *ids[start:]] if more > 0 else [*ids[:start], *ids[start + 1 :]]
    with pytest.raises(TrainingError) as found:
        check_images(trajectory, wrong, grids, policy_codec)
    assert str(found.value) == (
        f"chain group-0, {where}, image {index} ({trajectory.images[index]}): "
        f"the rollout has {9 + more} placeholders, the trainer 9"
    )


def test_an_image_too_few_on_either_side_is_named(chain: Any, policy_codec: ChatCodec) -> None:
    trajectory, ids, grids = inputs_of(chain, policy_codec)
    with pytest.raises(TrainingError, match=r"after turn 1, image 2 .*has 9 placeholders, the trainer 0"):
        check_images(trajectory, ids, grids[:2], policy_codec)
    last = max(i for i, token in enumerate(ids) if token == policy_codec.image_id)
    without = [token for i, token in enumerate(ids) if not last - 9 < i <= last]
    with pytest.raises(TrainingError, match=r"after its last turn, image 2 .*has 0 placeholders, the trainer 9"):
        check_images(trajectory, without, grids, policy_codec)
    with pytest.raises(TrainingError, match=r"prompt, image 0 .*has 9 placeholders, the trainer 0"):
        check_images(trajectory, ids, None, policy_codec)


def test_the_digest_sees_ids_and_mask() -> None:
    made = digest([1, 2, 3], [0, 1])
    assert made == digest((1, 2, 3), [0, 1])
    assert made == digest(np.array([1, 2, 3]), np.array([0, 1]))  # type: ignore[arg-type]
    others = {
        digest([1, 2, 4], [0, 1]),
        digest([1, 2, 3], [1, 1]),
        digest([1, 2, 3, 0], [1]),
        digest([2, 1, 3], [0, 1]),
    }
    assert len({made, *others}) == 5


EDITS = [call("qwen_edit_image", image_id=f"img_{number}", prompt="brighten") for number in (1, 2, 3)]


@pytest.mark.slow
async def test_a_chain_that_does_not_fit_is_cut_at_a_turn_boundary(policy_codec: ChatCodec) -> None:
    """At whatever length: no run of placeholders is split, no image stands without its run."""
    whole, store = await roll(task_of(), [*EDITS, ANSWER], policy_codec)
    assert whole.tokens is not None
    boundaries = {turn.end for turn in whole.turns}
    lengths = {*range(1, len(whole.tokens.response_ids) + 2, 4), *(end + d for end in boundaries for d in (-1, 0, 1))}
    images_left = set()
    for length in sorted(lengths):
        limits = RolloutLimits(max_tokens_per_turn=200, max_response_tokens=length)
        trajectory, store = await roll(task_of(), [*EDITS, ANSWER], policy_codec, limits)
        tokens = trajectory.tokens
        assert tokens is not None
        assert len(tokens.response_ids) <= length
        assert tokens.response_ids == whole.tokens.response_ids[: len(tokens.response_ids)]
        assert tokens.mask[-1] == 1
        assert policy_codec.image_runs(tokens.ids) == [9] * len(trajectory.images)
        # From there on the answer is cut: it may be one all the same.
        if length <= whole.turns[-1].start:
            assert trajectory.stop_reason is StopReason.CONTEXT_FULL
        trajectory.check(policy_codec, store.get)
        images_left.add(len(trajectory.images))
    assert images_left == {1, 2, 3, 4}
