"""Where tokens stand for the model, and that it looks at the images: with the policy's own code, on real chains."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agentfly.agents import Trajectory
from agentfly.datasets import EditTask
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec
from agentfly.training.verl.parity import ImageInputs
from tests.unit.training.chains import ANSWER, call, roll

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def model(tiny_policy: Path) -> Any:
    """The tiny policy in fp32."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_policy, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def chain(policy_codec: ChatCodec) -> tuple[Trajectory, ImageStore]:
    """Two images of different shapes in the prompt, and one more after each of two turns."""
    noise = np.random.default_rng(0).integers(0, 255, (200, 120, 3), np.uint8)
    tall, wide = Image.fromarray(noise), Image.fromarray(noise[:60].repeat(3, axis=1))
    task = EditTask(id="t", instruction="Make it brighter.", images=(tall, wide))
    first = call("qwen_edit_image", image_id="img_1", prompt="brighten")
    second = call("qwen_edit_image", image_id="img_2", prompt="brighten")
    return asyncio.run(roll(task, [first, second, ANSWER], policy_codec))


def inputs_of(chain: tuple[Trajectory, ImageStore], codec: ChatCodec, *, blank: bool = False) -> tuple[Any, Any]:
    trajectory, store = chain
    assert trajectory.tokens is not None
    ids = torch.tensor([trajectory.tokens.ids])
    images = [store.get(handle) for handle in trajectory.images]
    inputs = ImageInputs(codec).of(trajectory.images, images, ids)
    if blank:
        inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    return ids, inputs


def test_verls_positions_are_those_of_the_model(
    chain: tuple[Trajectory, ImageStore], policy_codec: ChatCodec, tiny_policy: Path, model: Any
) -> None:
    from verl.utils import hf_processor

    from agentfly.training.verl.loop_worker import AgentFlyLoopWorker

    ids, inputs = inputs_of(chain, policy_codec)
    grids = inputs["image_grid_thw"]
    assert len(grids) == 4
    assert len({tuple(grid) for grid in grids.tolist()}) == 2
    kinds, everything = inputs["mm_token_type_ids"].clone(), torch.ones_like(ids)
    bare = AgentFlyLoopWorker.__new__(AgentFlyLoopWorker)
    bare.processor = hf_processor(str(tiny_policy))
    made = bare._compute_position_ids(ids, everything, dict(inputs))
    expected, _ = model.model.get_rope_index(
        input_ids=ids, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=everything
    )
    assert made.shape == (1, 4, ids.shape[1])
    assert torch.equal(made[0, 0], torch.arange(ids.shape[1]))
    assert torch.equal(made[:, 1:], expected.transpose(0, 1))
    # Within an image rows and columns count apart, after it all three go on together.
    place = ids[0].tolist().index(policy_codec.image_id)
    rows, columns = int(grids[0, 1]) // 2, int(grids[0, 2]) // 2
    start = int(made[0, 1, place])
    patch = made[0, 1:, place : place + rows * columns] - start
    assert patch[0].tolist() == [0] * (rows * columns)
    assert patch[1].tolist() == [row for row in range(rows) for _ in range(columns)]
    assert patch[2].tolist() == list(range(columns)) * rows
    after = made[0, 1:, place + rows * columns] - start
    assert after.tolist() == [max(rows, columns)] * 3


def test_positions_of_the_trainer_give_the_log_probs_of_the_model(
    chain: tuple[Trajectory, ImageStore], policy_codec: ChatCodec, tiny_policy: Path, model: Any
) -> None:
    """The forward pass is the same with positions of the trainer and with those that the model makes."""
    from verl.utils import hf_processor

    from agentfly.training.verl.loop_worker import AgentFlyLoopWorker

    ids, inputs = inputs_of(chain, policy_codec)
    bare = AgentFlyLoopWorker.__new__(AgentFlyLoopWorker)
    bare.processor = hf_processor(str(tiny_policy))
    positions = bare._compute_position_ids(ids, torch.ones_like(ids), dict(inputs))
    with torch.no_grad():
        own = model(**forward_inputs(ids, inputs)).logits
        given = model(**forward_inputs(ids, inputs), position_ids=positions.transpose(0, 1)).logits
        text_only = model(**forward_inputs(ids, inputs), position_ids=positions[:, :1].expand(1, 3, -1).transpose(0, 1))
    torch.testing.assert_close(given, own, atol=1e-5, rtol=1e-5)
    assert (text_only.logits - own).abs().max() > 1e-3


def forward_inputs(ids: Any, inputs: Any) -> dict[str, Any]:
    names = ("pixel_values", "image_grid_thw", "mm_token_type_ids")
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **{name: inputs[name] for name in names}}


def policy_gradient(model: Any, ids: Any, inputs: Any, trajectory: Trajectory) -> SimpleNamespace:
    """Log-probs of the sampled tokens, and the gradient of their sum by each of the model's weights."""
    assert trajectory.tokens is not None
    model.zero_grad()
    prompt = len(trajectory.tokens.prompt_ids)
    logits = model(**forward_inputs(ids, inputs)).logits[0, prompt - 1 : -1]
    log_probs = logits.log_softmax(-1).gather(1, ids[0, prompt:, None])[:, 0]
    mask = torch.tensor(trajectory.tokens.mask).bool()
    log_probs[mask].sum().backward()
    gradient = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    return SimpleNamespace(log_probs=log_probs[mask].detach(), gradient=gradient)


def test_blanking_the_images_changes_log_probs_and_gradients(
    chain: tuple[Trajectory, ImageStore], policy_codec: ChatCodec, model: Any
) -> None:
    """Vision that is silently absent from training would leave both as they are."""
    seen = policy_gradient(model, *inputs_of(chain, policy_codec), chain[0])
    blank = policy_gradient(model, *inputs_of(chain, policy_codec, blank=True), chain[0])
    assert (seen.log_probs - blank.log_probs).abs().max() > 1e-3
    tower = [name for name in seen.gradient if "visual" in name]
    assert tower
    # The vision tower itself learns, and from what the images show.
    patch = next(name for name in tower if "patch_embed" in name)
    assert seen.gradient[patch].abs().max() > 0
    assert blank.gradient[patch].abs().max() == 0
    language = next(name for name in seen.gradient if "layers.0" in name and "language_model" in name)
    changed = (seen.gradient[language] - blank.gradient[language]).norm() / seen.gradient[language].norm()
    assert changed > 1e-2


def test_an_image_in_an_observation_reaches_the_turn_after_it(
    chain: tuple[Trajectory, ImageStore], policy_codec: ChatCodec, model: Any
) -> None:
    """The image of a tool's answer changes what is said after it, and nothing before it."""
    trajectory, _ = chain
    ids, inputs = inputs_of(chain, policy_codec)
    patches = [int(grid.prod()) for grid in inputs["image_grid_thw"]]
    changed = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
    changed["pixel_values"][sum(patches[:2]) : sum(patches[:3])] = 0
    with torch.no_grad():
        one, two = (model(**forward_inputs(ids, given)).logits[0] for given in (inputs, changed))
    difference = (one - two).abs().amax(-1)
    assert trajectory.tokens is not None
    before = len(trajectory.tokens.prompt_ids) + trajectory.turns[0].end
    after = len(trajectory.tokens.prompt_ids) + trajectory.turns[1].start
    assert difference[:before].max() < 1e-5
    assert difference[after - 1 :].max() > 1e-3
