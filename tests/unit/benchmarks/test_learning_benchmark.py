"""The benchmark of learning: its budget is fair, its figures are read rightly, and nothing is run twice."""

from __future__ import annotations

import io
import json
import math
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from agentfly.agents import Trajectory
from agentfly.agents.trajectory import ToolRecord, Turn
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.datasets import FAMILIES, LOOK_FAMILIES, RETOUCH_FAMILIES, load_tasks
from agentfly.errors import ConfigError, TrainingError
from agentfly.training.recipe.compose import compose
from agentfly.training.verl.scoring import reward_info
from tests.scripts import load_script

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def learning() -> ModuleType:
    """The script as a module: it is no part of a package, and finds what is beside it by the path."""
    return load_script("benchmarks/learning.py")


@pytest.fixture(scope="module")
def kept(learning: ModuleType) -> ModuleType:
    """Where results are kept."""
    return sys.modules["learning_results"]


@pytest.fixture(scope="module")
def shown(learning: ModuleType) -> ModuleType:
    """Where results are shown."""
    return sys.modules["learning_report"]


def held_out(success: float, **of: float) -> dict[str, float]:
    """What verl logs of a validation."""
    values = {family: of.get(family, success) for family in FAMILIES}
    found = {f"val-aux/{family}/success/mean@1": value for family, value in values.items()}
    found |= {f"val-aux/{family}/score/mean@1": 100 * value for family, value in values.items()}
    return found | {"val-core/named/reward/mean@1": 0.4, "val-aux/num_turns/mean": 4.0}


def recorded(success: float) -> list[tuple[int, dict[str, float]]]:
    """A run of four steps with a validation before, in the middle and after."""
    step = {"critic/rewards/mean": 0.3, "timing_s/step": 30.0, "timing_s/testing": 600.0}
    return [
        (0, held_out(0.2)),
        (1, step),
        (2, {**step, **held_out(0.4)}),
        (3, {**step, "critic/vf_explained_var": 0.5}),
        (4, {**step, **held_out(success)}),
    ]


def run_of(learning: ModuleType, arm: str, seed: int, success: float = 0.6) -> Any:
    validations, steps = learning.read_metrics(recorded(success))
    return learning.Run(arm, seed, ["a=b"], validations, steps, {"ray": 5.0})


def results_at(learning: ModuleType, file: Path, **budget: int) -> Any:
    return learning.Results(file, asdict(learning.Budget(**budget)), learning.ARMS)


def test_figures_come_from_what_verl_logs(learning: ModuleType) -> None:
    validations, steps = learning.read_metrics([(0, held_out(0.5, look=0.0)), *recorded(0.7)[1:]])
    assert [(each.step, each.minutes) for each in validations] == [(0, 0.0), (2, 1.0), (4, 2.0)]
    first, last = validations[0].figures, validations[-1].figures
    assert first["success"] == pytest.approx({"all": 0.4, **dict.fromkeys(FAMILIES, 0.5), "look": 0.0})
    assert last["score"]["repair"] == pytest.approx(70)
    # Validation takes ten minutes here, and is not time of training.
    assert [step["seconds"] for step in steps] == [30.0] * 4
    assert steps[2] == {"step": 3.0, "reward": 0.3, "explained_variance": 0.5, "seconds": 30.0}


@pytest.mark.parametrize(("score", "success"), [(80.0, 1.0), (79.9, 0.0), (None, 0.0)])
def test_the_trainer_logs_success(score: float | None, success: float) -> None:
    assert reward_info(Trajectory("c", "g", [], score=score))["success"] == success


def test_an_interval_is_students(kept: ModuleType) -> None:
    found = kept.interval([50.0, 60.0, 70.0])
    assert found.mean == pytest.approx(60)
    assert found.half == pytest.approx(4.303 * 10 / math.sqrt(3))
    alone = kept.interval([50.0, math.nan])
    assert (alone.mean, math.isnan(alone.half), str(alone)) == (50.0, True, "50")
    assert math.isnan(kept.interval([]).mean)


def test_tables_compare_the_same_seeds(learning: ModuleType, tmp_path: Path) -> None:
    results = results_at(learning, tmp_path / "learning.json")
    for arm, seed, success in (("grpo", 0, 0.6), ("grpo", 1, 0.7), ("one_call", 0, 0.3), ("ppo", 2, 0.5)):
        results.add(run_of(learning, arm, seed, success))
    lines = learning.markdown(results).splitlines()
    first = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    assert list(results.arms()) == ["ppo", "grpo", "one_call"]
    assert first["grpo"].startswith("| grpo | 2 | 20 → 65 ± 64 |")
    assert first["grpo"].endswith("| 2.0 |")
    # Seed 1 of grpo has no counterpart; ppo and grpo share no seed at all.
    assert first["grpo − one_call"].startswith("| grpo − one_call | 1 | 30 |")
    assert first["one_call − warm start"].startswith("| one_call − warm start | 1 | 10 |")
    assert "ppo − grpo" not in first
    assert "grey" not in "".join(lines)
    results.add(replace(run_of(learning, "grpo", 0), blanked={"seeing": 0.7, "blanked": 0.2}))
    assert "| grpo | 1 | 70 | 20 |" in learning.markdown(results)


def test_the_price_of_a_point_counts_what_was_discarded(learning: ModuleType, tmp_path: Path) -> None:
    results = results_at(learning, tmp_path / "learning.json")
    for seed, seconds in ((0, 30.0), (1, 50.0)):
        spent = {
            "tools/total_seconds": seconds,
            "tools/total_discarded_seconds": 10.0,
            "tools/total_calls": 16.0,
            "refill/total_groups": 2.0,
        }
        metrics = [(step, values | spent if step else values) for step, values in recorded(0.6)]
        validations, steps = learning.read_metrics(metrics)
        results.add(learning.Run("refill", seed, [], validations, steps))
    results.add(run_of(learning, "grpo", 0))  # of before the tools were counted
    [line] = [line for line in learning.markdown(results).splitlines() if line.startswith("| refill | 2 | 8")]
    # Four steps of 40 and of 60 seconds, for 40 points.
    cells = line.strip("| ").split(" | ")
    assert [cell.split(" ± ")[0] for cell in cells[2:]] == ["8", "64", "200", "21", "5.00"]
    assert learning.markdown(results).count("| grpo | 1 |") == 1


def test_what_is_done_is_kept_and_not_done_again(learning: ModuleType, tmp_path: Path) -> None:
    file, made, out = tmp_path / "new" / "learning.json", [], io.StringIO()
    console = Console(file=out, width=200)

    def make(arm: str, seed: int, tell: Callable[[str], None]) -> Any:
        made.append((arm, seed))
        if arm == "ppo" and len(made) == 2:
            raise TrainingError("the trainer ended")
        return run_of(learning, arm, seed)

    pairs = [("grpo", 0), ("ppo", 0), ("rloo", 0)]
    results = results_at(learning, file)
    failed = learning.benchmark(results, pairs, make, console)
    assert made == pairs
    assert failed == ["ppo, seed 0: the trainer ended"]
    # A new process goes on with what is missing.
    again = results_at(learning, file)
    assert again.runs == results.runs
    assert learning.benchmark(again, pairs, make, console) == []
    assert made[3:] == [("ppo", 0)]
    assert "grpo, seed 0: done before" in out.getvalue()
    assert len(json.loads(file.read_text(encoding="utf-8"))["runs"]) == 3
    with pytest.raises(ConfigError, match="another --out"):
        results_at(learning, file, steps=99)


def test_runs_of_another_process_are_kept(learning: ModuleType, tmp_path: Path) -> None:
    one, two = (results_at(learning, tmp_path / "learning.json") for _ in range(2))
    one.add(run_of(learning, "grpo", 0))
    two.add(run_of(learning, "ppo", 0))
    assert set(results_at(learning, tmp_path / "learning.json").runs) == {("grpo", 0), ("ppo", 0)}


def test_several_runs_at_a_time_are_all_kept(learning: ModuleType, tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=30)  # broken, and so a failure, where runs come one by one

    def make(arm: str, seed: int, tell: Callable[[str], None]) -> Any:
        together.wait()
        return run_of(learning, arm, seed)

    pairs = [(arm, seed) for seed in (0, 1) for arm in ("ppo", "grpo")]
    results = results_at(learning, tmp_path / "learning.json")
    assert learning.benchmark(results, pairs, make, Console(file=io.StringIO()), jobs=2) == []
    assert set(results_at(learning, tmp_path / "learning.json").runs) == set(pairs)


def test_curves_are_drawn_against_steps_and_minutes(learning: ModuleType, shown: ModuleType, tmp_path: Path) -> None:
    results = results_at(learning, tmp_path / "learning.json")
    for seed in (0, 1):
        results.add(run_of(learning, "grpo", seed, 0.5 + 0.2 * seed))
    learning.write_report(results, tmp_path)
    images = [tmp_path / f"learning-{axis}.png" for axis in ("step", "minutes")]
    for photo in images:
        with Image.open(photo) as image:
            assert image.width > 1000
    assert images[0].read_bytes() != images[1].read_bytes()
    x, points = shown._series(results.arms()["grpo"], "all", "minutes")
    assert (x, [point.mean for point in points]) == ([0.0, 1.0, 2.0], [20.0, 40.0, 60.0])
    assert (tmp_path / "learning.md").read_text(encoding="utf-8").startswith("Held-out success")


def test_arms_compose_with_the_same_budget(learning: ModuleType, tmp_path: Path) -> None:
    budget, found = learning.Budget(steps=4, prompts=8, samples=4), {}
    given = [f"agentfly.model={tmp_path}", f"agentfly.out={tmp_path}", "agentfly.data.train=stickers"]
    for arm, updates in (("ppo", 1), ("turn_credit_no_tool_cost", 1), ("look", 2), ("refill_curriculum", 1)):
        found[arm] = compose(learning.RECIPE, [*given, *budget.overrides(updates), *learning.ARMS[arm]])
    for config in found.values():
        assert config.data.train_batch_size * config.actor_rollout_ref.rollout.n == 32
        assert config.trainer.total_training_steps == 4
        assert config.trainer.val_before_train is True
        assert config.actor_rollout_ref.rollout.val_kwargs.temperature == 0
    assert [config.actor_rollout_ref.actor.ppo_mini_batch_size for config in found.values()] == [8, 8, 4, 8]
    assert found["ppo"].algorithm.adv_estimator == "gae"
    assert found["ppo"].critic.ppo_mini_batch_size == 2
    assert set(learning.ARMS["grpo"]) < set(learning.ARMS["one_call"])
    assert found["turn_credit_no_tool_cost"].agentfly.reward.tool_cost == 0
    assert found["refill_curriculum"].data.gen_batch_size == 1
    assert found["refill_curriculum"].data.curriculum.chains == 4


def test_a_laboratory_gives_each_arm_its_own_and_the_rest_alike(
    learning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    class Outcome:
        metrics = recorded(0.6)
        phase_seconds = {"ray": 4.0, "training": 100.0}  # noqa: RUF012

    def launch(what: Any, on_step: Callable[[int, dict[str, float]], None]) -> Outcome:
        on_step(0, held_out(0.2))
        return Outcome()

    monkeypatch.setattr(learning, "prepare", lambda config: None)
    monkeypatch.setattr(learning, "compose", lambda recipe, overrides: asked.append(list(overrides)))
    monkeypatch.setattr(learning, "launch", launch)
    budget, told = learning.Budget(steps=1, prompts=5, samples=2, test_tasks=5), list[str]()
    own = {"ppo": ["critic.optim.lr=1e-2"]}
    laboratory = learning.Laboratory(tmp_path, budget, tmp_path / "policy", overrides=own)
    run = laboratory.run("ppo", 3, told.append)
    assert run.minutes == 2.0
    assert run.start_seconds == {"ray": 4.0}
    assert asked[0][-1] == "critic.optim.lr=1e-2" == run.overrides[-1]
    assert "held-out success all 20%" in told[0]
    laboratory.run("grpo", 3, told.append)
    both = set(asked[0]) & set(asked[1])
    assert {"agentfly.seed=3", "trainer.total_training_steps=1", "trainer.save_freq=-1"} <= both
    # The very same files of tasks, too.
    assert sum(override.startswith("agentfly.data.") for override in both) == 2


def test_arms_with_questions_of_their_own_are_trained_where_they_are_named(learning: ModuleType) -> None:
    apart = {*learning.WORLDS, *learning.JUDGED_ARMS, "refill", "curriculum", "refill_curriculum"}
    assert set(learning.ARMS) - set(learning._parser().parse_args([]).arms) == apart
    assert learning._parser().parse_args(["--arms", "look"]).arms == ["look"]


def test_what_a_judged_arm_learned_is_told_by_the_exact_score(
    learning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, asked = tmp_path / "trajectories.jsonl", list[str]()
    lines = []
    for step, exact in ((0, 10.0), (4, 90.0)):
        for family in FAMILIES:
            chain = Trajectory("c", "g", [], [], metadata={"task_type": family})
            line = TrajectoryLine.of_chain(chain, audit=exact, step=step, validate=True)
            lines.append(line.to_json())
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")

    class Outcome:
        metrics = recorded(0.5)[:1] + recorded(0.5)[-1:]  # by the judge
        phase_seconds: dict[str, float] = {}  # noqa: RUF012

    monkeypatch.setattr(
        learning, "prepare", lambda config: SimpleNamespace(settings=SimpleNamespace(trajectory_log=log))
    )
    monkeypatch.setattr(learning, "compose", lambda recipe, overrides: asked.extend(overrides))
    monkeypatch.setattr(learning, "launch", lambda what, on_step: Outcome())
    budget = learning.Budget(steps=2, prompts=2, samples=2, test_tasks=5)
    run = learning.Laboratory(tmp_path, budget, tmp_path / "policy").run("judge_listwise", 0, lambda line: None)
    steps = [validation.step for validation in run.validations]
    assert [run.at(place, "all") for place in range(len(steps))] == [0.0, 100.0]
    [judge] = [override for override in asked if override.startswith("agentfly.evaluator=")]
    assert "evaluator:'listwise'" in judge
    assert "base_url:'http://127.0.0.1:" in judge
    [audit] = [override for override in asked if override.startswith("agentfly.audit=")]
    assert "'reference'" in audit


@pytest.mark.parametrize("text", ["grpo", "grpo:lr", "gppo:a=b"])
def test_a_wrong_override_is_refused(learning: ModuleType, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        learning._parser().parse_args(["--override", text])
    assert ("grpo" if text.startswith("gppo") else "ARM:key=value") in capsys.readouterr().err


def test_arms_that_look_and_retouch_have_worlds_of_their_own(learning: ModuleType, tmp_path: Path) -> None:
    given = [f"agentfly.model={tmp_path}", f"agentfly.out={tmp_path}", "agentfly.data.train=stickers"]
    look, blind = (compose(learning.RECIPE, [*given, *learning.ARMS[arm]]) for arm in ("look", "no_look"))
    assert look == blind
    assert learning.WORLDS["look"].families == learning.WORLDS["no_look"].families == ("tiny", "most")
    assert set(learning.WORLDS["look"].warm_start.families) == set(LOOK_FAMILIES)
    tools = {arm: set(world.warm_start.card.tools) for arm, world in learning.WORLDS.items()}
    assert tools["look"] - tools["no_look"] == {"zoom", "colour_at"}
    assert set(learning.WORLDS["retouch"].warm_start.families) == set(RETOUCH_FAMILIES)


def test_a_laboratory_keeps_the_worlds_of_its_arms_apart(
    learning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(learning, "run_phase", lambda function, arguments, log: made.append(arguments["folder"].name))
    laboratory = learning.Laboratory(tmp_path, learning.Budget(steps=1, prompts=4, samples=2, test_tasks=5))
    told: list[str] = []
    ready = {arm: laboratory.make_ready(arm, 0, told.append) for arm in ("grpo", "no_look", "look", "retouch")}
    assert made == ["warm_start-0", "warm_start-no_look-0", "warm_start-look-0", "warm_start-retouch-0"]
    assert ready["look"][1:] == ready["no_look"][1:]
    assert len({files[1] for files in ready.values()}) == 3
    tasks = list(load_tasks(ready["retouch"][2]))
    assert [task.task_type for task in tasks] == list(RETOUCH_FAMILIES)
    shared = learning.Laboratory(tmp_path / "shared", learning.Budget(1, 4, 2, 5), one_warm_start=7)
    assert {shared.make_ready("look", seed, told.append)[0].name for seed in (7, 8)} == {"warm_start-look-7"}
    assert len({shared.make_ready("look", seed, told.append)[1] for seed in (7, 8)}) == 2


def look_run(learning: ModuleType, arm: str, success: float) -> Any:
    """A run of the world in which looking pays, with the tools that it used."""
    values = {f"val-aux/{family}/success/mean@1": success for family in ("tiny", "most")}
    validations, steps = learning.read_metrics([(0, {**values, "val-aux/tiny/success/mean@1": 0.1}), (2, values)])
    used = {"before": {"tiny": {"zoom": 0.25}}, "after": {"tiny": {"zoom": 1.0}}}
    return learning.Run(arm, 0, [], validations, steps, tools=used if arm == "look" else None)


def test_tables_and_curves_are_kept_apart_by_world(learning: ModuleType, tmp_path: Path) -> None:
    results = results_at(learning, tmp_path / "learning.json")
    for run in (run_of(learning, "grpo", 0), look_run(learning, "look", 0.8), look_run(learning, "no_look", 0.3)):
        results.add(run)
    assert results_at(learning, tmp_path / "learning.json").runs == results.runs
    text = learning.markdown(results)
    lines = text.splitlines()
    assert "| arm | seeds | all | tiny | most | minutes |" in lines
    assert "| look − no_look | 1 | 50 | 50 | 50 |" in lines
    assert "| look | zoom | 25 → 100 | 0 → 0 |" in lines
    assert text.count("| grpo | 1 |") == 1
    learning.write_report(results, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("learning-step.png", "learning-minutes.png", "learning-look-step.png", "learning-look-minutes.png")
    }


def test_tool_use_is_counted_by_chain_and_task_type(kept: ModuleType, tmp_path: Path) -> None:
    def line(step: int, family: str, names: Sequence[str], validate: bool = True) -> str:
        turn = Turn("", "stop", 0.0, tuple(ToolRecord(name, {}, 0.0) for name in names))
        chain = Trajectory("c", "g", [], [turn], metadata={"task_type": family})
        return TrajectoryLine.of_chain(chain, step=step, validate=validate).to_json()

    lines = [
        line(0, "tiny", ["zoom", "zoom"]),
        line(0, "tiny", ["give_answer"]),
        line(1, "tiny", ["colour_at"], validate=False),
        line(4, "tiny", ["zoom", "give_answer"]),
        line(4, "most", []),
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert kept.tool_use(tmp_path / "t.jsonl", 4) == {
        "before": {"tiny": {"zoom": 0.5}},
        "after": {"tiny": {"zoom": 1.0}, "most": {}},
    }
