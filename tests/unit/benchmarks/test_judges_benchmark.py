"""The benchmark of judges: its simulated judge has the noise that it says, and serves the judges of training."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from agentfly.datasets import StickerWorld
from agentfly.evaluators import EditSample, Score
from agentfly.evaluators.judge.listwise import ListwiseJudge, ListwiseSettings
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def judges() -> ModuleType:
    """The script as a module."""
    return load_script("benchmarks/judges.py")


@pytest.fixture(scope="module")
def simulated(judges: ModuleType) -> ModuleType:
    """The judge beside the script."""
    return sys.modules["simulated_judge"]


def test_ways_are_run_by_real_tools_and_scored_by_the_truth(judges: ModuleType) -> None:
    [task] = judges.collect(1, "heldout")
    by_way = dict(zip(judges.WAYS, task.truth, strict=True))
    assert by_way["right"] > 80 > by_way["right, but tight"] > 0
    assert by_way["right and another sticker"] < 60
    assert (by_way["nothing"], by_way["another sticker"], by_way["brighter"]) == (0.0, 0.0, 0.0)
    assert task.image[judges.WAYS.index("nothing")] == 0
    assert task.repainted[judges.WAYS.index("brighter")] > 0.7
    calls = dict(zip(judges.WAYS, task.calls, strict=True))
    assert (calls["nothing"], calls["right"], calls["right and another sticker"]) == (0, 1, 2)


def outcomes(judges: ModuleType) -> list[object]:
    """Tasks whose ways are worth different scores; the last one changes nothing."""
    count = len(judges.WAYS)
    truth = np.append(np.linspace(95, 5, count - 1), 0.0)
    image = np.append(np.arange(1, count), 0)
    return [judges.Outcomes(family, truth, np.zeros(count), image, np.ones(count)) for family in judges.FAMILIES]


def test_without_noise_advantages_are_right_and_the_best_way_is_learned(judges: ModuleType) -> None:
    model = judges.JudgeModel(image=0, error=0, strictness=0, places=0, grid=0.01)
    tasks = outcomes(judges)
    found = judges.accuracy(tasks, model, groups=20, seed=0)
    assert all(figures["rank"]["mean"] > 0.999 for figures in found.values())
    assert (found["listwise, 2 orders"]["requests"], found["pointwise"]["sign"]["mean"]) == (2.0, 1.0)
    assert 6 < found["pointwise"]["requests"] <= 8
    before, _ = judges.learn(tasks, tasks, judges.truth, model, 0, seed=0)
    after, _ = judges.learn(tasks, tasks, judges.listwise(model, 2), model, 40, seed=0)
    assert after > before + 10


@pytest.mark.slow
def test_a_reversed_order_takes_the_place_bias_out(judges: ModuleType) -> None:
    model = judges.JudgeModel(image=0, error=0, strictness=0, places=400, grid=0.01)
    tasks = outcomes(judges)
    found = judges.accuracy(tasks, model, groups=30, seed=0)
    assert found["listwise, 1 order"]["rank"]["mean"] < 0.5 < found["pointwise"]["rank"]["mean"]
    gentle = judges.accuracy(tasks, replace(model, places=60), groups=30, seed=0)
    assert gentle["listwise, 2 orders"]["rank"]["mean"] > gentle["listwise, 1 order"]["rank"]["mean"] + 0.02


@pytest.mark.slow
def test_the_command_prints_a_table_for_each_question(
    judges: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "judges.json"
    small = ["--tasks", "1", "--groups", "4", "--steps", "1", "--seeds", "0,1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["judges.py", *small])
    monkeypatch.setattr(judges, "MODELS", {name: judges.MODELS[name] for name in judges.LEARNED[:1]})
    judges.main()
    shown = capsys.readouterr().out
    assert "| as in training | listwise, 2 orders | 2.0 |" in shown
    assert "| as in training | truth |" in shown
    found = json.loads(file.read_text())
    assert found["ways"]["right"] > 80
    assert found["advantages"]["as in training"]["pointwise"]["requests"] > 2


async def test_the_server_ranks_and_rates_the_results_of_known_tasks(simulated: ModuleType) -> None:
    task = StickerWorld().task(0, "train", "named")
    source, target = task.images[0], task.target
    assert isinstance(source, Image.Image)
    assert isinstance(target, Image.Image)
    half = Image.blend(source, target, 0.5)
    samples = [EditSample(task.instruction, source, image) for image in (half, target, source)]
    model = simulated.JudgeModel(image=0, error=0, strictness=0, places=0, grid=1)
    judge = simulated.SimulatedJudge([task], model)
    with simulated.served(judge) as address:
        client = openai.AsyncOpenAI(
            api_key="k", base_url=address, max_retries=0, http_client=httpx2.AsyncClient(verify=False)
        )
        settings = ListwiseSettings(model="simulated", base_url=address, scheme="simple")
        tested = ListwiseJudge(settings, client=client)
        scores = await tested.evaluate_group(samples)
        single = await tested.evaluate(samples[1])
    assert [score.value for score in scores if isinstance(score, Score)] == [50.0, 100.0, 0.0]
    assert single.value > 95
    assert judge.requests == {"edit_ranking": 2, "edit_judgement": 1}
