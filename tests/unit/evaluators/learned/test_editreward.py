"""EditReward on a tiny checkpoint of the real class: sleep changes nothing, and a head is never left to chance."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agentfly.datasets.photos import load_photo
from agentfly.errors import ConfigError
from agentfly.evaluators import EditSample, Score
from agentfly.evaluators.guarded import PassingFault
from agentfly.evaluators.learned import editreward as module
from agentfly.evaluators.learned.editreward import EditRewardEvaluator, EditRewardSettings
from tests.tiny.rewards import editreward, editreward_prompts

SOURCE = load_photo("coffee.png").resize((64, 48))
RESULTS = [load_photo("rocket.jpg").resize((64, 48)), Image.new("RGB", (64, 48), (200, 30, 60)), SOURCE.copy()]
SAMPLES = [EditSample(f"make it {place} <|vision_start|>", SOURCE, result) for place, result in enumerate(RESULTS)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editreward")
    editreward_prompts(folder)
    return editreward(folder)


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AREA", 4 * 28 * 28)


def made(checkpoint: Path, **settings: Any) -> EditRewardEvaluator:
    chosen = {"model": str(checkpoint), "prompts": checkpoint, "device": "cpu", "batch_window": 5.0, "batch_size": 3}
    return EditRewardEvaluator(EditRewardSettings(**{**chosen, **settings}))


async def scores(evaluator: EditRewardEvaluator) -> list[Score]:
    return list(await asyncio.gather(*(evaluator.evaluate(sample) for sample in SAMPLES)))


@pytest.mark.slow
@pytest.mark.parametrize("sleep", ["cpu", "drop"])
async def test_scores_are_equal_bit_for_bit_before_and_after_sleep(checkpoint: Path, sleep: str) -> None:
    evaluator = made(checkpoint, sleep=sleep)
    before = await scores(evaluator)
    assert len({score.value for score in before}) == 3
    assert all(score.aspects.keys() == {"following", "quality"} for score in before)
    await evaluator.sleep()
    if sleep == "drop":
        assert evaluator._loaded is None
    with pytest.raises(PassingFault, match="sleeps: wake it"):
        await evaluator.evaluate(SAMPLES[0])
    await evaluator.wake()
    assert await scores(evaluator) == before
    await evaluator.close()


@pytest.mark.slow
async def test_one_by_one_the_scores_are_those_of_the_batch_but_for_rounding(checkpoint: Path) -> None:
    together, alone = made(checkpoint), made(checkpoint, batch_size=1)
    singles = [(await alone.evaluate(sample)).value for sample in SAMPLES]
    assert [score.value for score in await scores(together)] == pytest.approx(singles, abs=1e-3)


async def test_middle_and_width_move_the_scale_and_keep_the_order(checkpoint: Path) -> None:
    plain = [score.value for score in await scores(made(checkpoint))]
    moved = [score.value for score in await scores(made(checkpoint, middle=3.0, width=2.0))]
    assert sorted(range(3), key=plain.__getitem__) == sorted(range(3), key=moved.__getitem__)
    assert all(one < other for one, other in zip(moved, plain, strict=True))


async def test_a_checkpoint_without_heads_is_refused(tmp_path: Path) -> None:
    editreward_prompts(tmp_path)
    with pytest.raises(ConfigError, match=r"has no rm_heads\.head_0"):
        await made(editreward(tmp_path, heads=False), batch_size=1).evaluate(SAMPLES[0])


async def test_a_checkpoint_that_lacks_a_layer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(checkpoint / "model.safetensors")
    name = next(key for key in state if "layers.1.mlp" in key)
    del state[name]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="lacks 1 weights"):
        await made(tmp_path, batch_size=1).evaluate(SAMPLES[0])


async def test_without_the_prompts_it_was_trained_with_there_is_no_score(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"github\.com/TIGER-AI-Lab/EditReward"):
        await made(checkpoint, prompts=None).check_ready()
