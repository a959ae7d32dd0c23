"""The main job, small: warm start, two real verl steps with weight sync, checkpoint, resume, evaluation, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentfly.agents import Trajectory
from agentfly.agents.policy_config import PolicyConfig
from agentfly.evaluators.bootstrap import SUCCESS
from agentfly.images import ImageStore, load_image
from agentfly.templates import ChatCodec
from agentfly.training.quickstart.evaluation import EvaluationPlan, read_evaluation
from agentfly.training.quickstart.run import QuickstartConfig
from agentfly.training.quickstart.warm_start import SFTConfig, WarmStartConfig
from tests.integration.viewer.browser import find_browser, require_browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

STEPS = 2
SMALL = ("data.train_batch_size=4", "actor_rollout_ref.rollout.n=4", "agentfly.images=true")
RUN = """
import sys
from agentfly.training.quickstart.run import QuickstartConfig, run_quickstart
if __name__ == "__main__":
    run_quickstart(QuickstartConfig.model_validate_json(sys.argv[1]))
"""
# A page of the viewer that is opened before the first step, and is not loaded again.
WATCH = """
import sys
from pathlib import Path
from playwright.sync_api import sync_playwright
from agentfly.viewer.beside import ViewerBeside
out, log, browser, last = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], f"step {sys.argv[4]} of {sys.argv[4]}"
with ViewerBeside(out, log) as viewer, sync_playwright() as playwright:
    chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"])
    page, loads = chromium.new_page(), []
    page.on("load", lambda _: loads.append(page.url))
    page.goto(f"{viewer.start()}runs/{out.name}/", timeout=300_000)
    assert last not in page.locator("main").inner_text(timeout=300_000)
    page.get_by_text(last).first.wait_for(timeout=1_800_000)
    assert len(loads) == 1, loads
    chromium.close()
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> QuickstartConfig:
    return QuickstartConfig(
        out=tmp_path_factory.mktemp("quickstart") / "run",
        warm_start=WarmStartConfig(demonstrations=60, looks=20, sft=SFTConfig(steps=80, batch_size=16)),
        tasks=8,
        overrides=(*SMALL, f"trainer.total_training_steps={STEPS}"),
        evaluation=EvaluationPlan(tasks_per_family=2, kept_per_family=1),
    )


@contextmanager
def slow_machine(command: list[str], errors: Path) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[bytes]]]:
    """Run a command on one core without wide instructions, beside a program that keeps it busy; yield both."""
    pinned = ["taskset", "--cpu-list", str(max(os.sched_getaffinity(0)))]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default"}
    burner = subprocess.Popen([*pinned, sys.executable, "-c", "while True: pass"])
    try:
        with errors.open("w") as file:
            yield (
                subprocess.Popen([*pinned, *command], env=environment, stdout=subprocess.PIPE, stderr=file, text=True),
                burner,
            )
    finally:
        burner.kill()
        burner.wait()


class Watcher:
    """A browser that follows the run by its page; see `WATCH`.

    Args:
        run: folder of the run.
        log: file for what goes wrong.
    """

    def __init__(self, run: Path, log: Path) -> None:
        self._run, self.log = run, log
        self._browser = find_browser()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Open the page, where there is a browser."""
        if self._browser is not None:
            words = [sys.executable, "-c", WATCH, str(self._run), f"{self.log}-viewer", self._browser, str(STEPS)]
            with self.log.open("w") as file:
                self._process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)

    def wait(self, limit: float) -> int:
        """Wait until the last step was seen; return 0 for that, something else for a fault."""
        require_browser()
        assert self._process is not None, "the run never said that its training starts"
        return self._process.wait(limit)

    def stop(self) -> None:
        """End it, if it still waits."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def watcher(config: QuickstartConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watcher]:
    found = Watcher(config.out, tmp_path_factory.mktemp("watcher") / "log")
    yield found
    found.stop()


@pytest.fixture(scope="module")
def log(config: QuickstartConfig, watcher: Watcher, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the output of the command, all of it, on a very slow machine.

    The first command of the page once needed more than its fixed half hour there, and failed.
    """
    folder, lines = tmp_path_factory.mktemp("script"), list[str]()
    script, errors = folder / "run.py", folder / "errors"
    script.write_text(RUN)
    with slow_machine([sys.executable, str(script), config.model_dump_json()], errors) as (run, burner):
        assert run.stdout is not None
        for line in run.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("start of grpo: begins"):
                watcher.start()
            if line.startswith("grpo: begins"):
                # The parts that had fixed limits are over: the warm start, and the start of Ray and the engine.
                burner.kill()
        run.wait()
    assert run.returncode == 0, "\n".join(lines)[-2000:] + errors.read_text()[-4000:]
    return lines


@pytest.fixture(scope="module")
def summary(config: QuickstartConfig, log: list[str]) -> dict[str, Any]:
    return dict(json.loads((config.out / "summary.json").read_text()))


def test_the_page_of_the_viewer_follows_the_training_by_itself(log: list[str], watcher: Watcher) -> None:
    assert watcher.wait(120) == 0, watcher.log.read_text()[-2000:]


def test_a_log_tells_how_far_each_part_is(log: list[str]) -> None:
    assert "warm start: made here" in log
    ends = ("warm start, supervised: 80 of 80", "evaluation of warm start: 20 of 20", f"grpo: {STEPS} of {STEPS}")
    for end in (*ends, "evaluation of trained: 22 of 22"):
        assert [line for line in log if line.startswith(end)], end


def test_the_summary_holds_what_it_promises(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    assert summary["steps"] == STEPS
    assert summary["warm_start_origin"] == "made"
    for label in ("warm_start", "trained"):
        assert set(summary[label]["success"]) == {"all", "named", "replace", "look", "two_step", "repair"}
        assert summary[label]["score"] == summary[label]["greedy"]["score"]["mean"]
    blanked = read_evaluation(config.out / "evaluation" / "trained" / "blanked.jsonl")
    assert blanked.families == ("look", "look")
    assert summary["blanked"]["trained"]["look"]["mean"] == (blanked.scores() >= SUCCESS).mean()
    assert all(summary["seconds"][part] > 0 for part in ("warm start", "training start", "training"))
    # Evaluation and training overlap: the whole takes less time than the sum of its parts.
    assert 60 * summary["minutes"] < sum(summary["seconds"].values()) + 6


def test_rollout_and_trainer_agree(summary: dict[str, Any]) -> None:
    """Every step compares the probabilities that vLLM sampled with and those that the trainer computes."""
    assert 0.0 < summary["rollout_actor_diff_max"] <= 1e-3


def test_training_changed_the_policy(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    before, after = (load_file(config.out / name / "model.safetensors") for name in ("warm_start", "policy"))
    shared = before.keys() & after.keys()
    assert len(shared) > 50
    assert any((before[name] != after[name]).any() for name in shared)
    assert PolicyConfig.read(str(config.out / "policy")) == config.warm_start.card


def test_every_sampled_chain_is_logged_with_exact_tokens(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (config.out / "training" / "trajectories.jsonl").read_text().splitlines()]
    assert len(lines) == STEPS * 4 * 4
    codec, images = (
        ChatCodec.from_pretrained(str(config.out / "policy")),
        ImageStore(config.out / "training/images"),
    )
    for line in lines:
        trajectory = Trajectory.from_json(json.dumps(line["trajectory"]))
        assert trajectory.reward is not None
        trajectory.check(codec, images.get)


def test_the_metrics_tell_of_rewards_health_and_waiting(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    step = json.loads((config.out / "training" / "metrics.jsonl").read_text().splitlines()[-1])["data"]
    assert step["reward/mean"] == pytest.approx(step["critic/rewards/mean"], abs=1e-6)
    assert {"reward/part/edit", "reward/group/zero_variance", "health/tool_calls", "wait/policy_idle"} <= step.keys()


def test_the_report_can_be_looked_at(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    page = (config.out / "report.html").read_text()
    assert all(family in page for family in config.evaluation.families)
    assert load_image(config.out / "learning_curve.png").width > 600


def test_the_processes_of_the_training_are_forks_of_a_preloaded_one(
    config: QuickstartConfig, summary: dict[str, Any]
) -> None:
    (log,) = config.out.rglob("*.preload.log")
    assert "interpreter of its own" not in log.read_text()


def test_nothing_is_left_running(config: QuickstartConfig, summary: dict[str, Any]) -> None:
    me = psutil.Process()
    left = [child.name() for child in me.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    assert not [name for name in left if "ray" in name or "VLLM" in name]
