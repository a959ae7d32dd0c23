"""The launcher reports progress, names what went wrong, and leaves nothing running; with a trainer of a few lines."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentfly.errors import TrainingError
from agentfly.process_tree import MARKER, ProcessFamily
from agentfly.training.launch.environment import FORWARDED_VARIABLE, run_environment
from agentfly.training.launch.launcher import Launch, TrainingOutcome, launch
from agentfly.training.launch.log_reader import SAMPLED
from agentfly.training.recipe.settings import DataSettings, Patience, TrainSettings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# A trainer that prints verl's lines, runs {body}, and leaves a daemon in a session of its own.
TRAINER = """
import json, os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
def say(text):
    print(text, flush=True)
def step(number, **data):
    with open(os.environ["VERL_FILE_LOGGER_PATH"], "a") as file:
        file.write(json.dumps({{"step": number, "data": data}}) + "\\n")
say("marker " + os.environ["AGENTFLY_RUN_ID"])
say("scratch " + os.environ["RAY_TMPDIR"])
{body}
"""
START = "say('Started a local Ray instance.'); say('reward loop manager initialized'); say('ready to fit')\n"
READY = START.replace("ready to fit", "all initialize finished, ready to fit")


def settings_in(folder: Path, **settings: Any) -> TrainSettings:
    data = DataSettings(train="stickers")
    # Chains are so short that their limits may be short too.
    short: dict[str, Any] = {"limits": {"wall_clock": 0.1}, "guard": {"timeout": 0.1, "attempts": 1}}
    return TrainSettings(model=str(folder), out=folder / "run", data=data, device="cpu", **{**short, **settings})


class Case:
    """A run with a fake trainer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.phases: list[str] = []
        self.notices: list[str] = []

    def launch(
        self, body: str, on_step: Any = None, steps: int = 2, resume: bool = False, **settings: Any
    ) -> TrainingOutcome:
        script = self.folder / "trainer.py"
        script.write_text(TRAINER.format(body=body))
        made = settings_in(self.folder, **settings)
        return launch(
            Launch(made.out / "config.yaml", made, steps, resume),
            on_step=on_step or (lambda step, metrics: self.steps.append((step, metrics))),
            on_phase=self.phases.append,
            on_notice=self.notices.append,
            driver=(str(script),),
        )

    def saved(self, step: int) -> Path:
        """Write a checkpoint as verl does."""
        checkpoint = self.folder / "run" / "checkpoints" / f"global_step_{step}"
        checkpoint.mkdir(parents=True)
        checkpoint.with_name("latest_checkpointed_iteration.txt").write_text(str(step))
        return checkpoint

    def log(self) -> dict[str, str]:
        """Return the lines of the newest log, by their first word."""
        newest = max((self.folder / "run" / "logs").glob("*.log"))
        return dict(line.split(" ", 1) for line in newest.read_text().splitlines() if " " in line)

    def assert_clean(self) -> None:
        assert ProcessFamily(self.log()["marker"]).members() == []
        assert not Path(self.log()["scratch"]).exists()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_a_good_run(case: Case) -> None:
    notice = "print('(TaskRunner pid=1) WARNING:agentfly notice: step 1 is sampled again', flush=True);"
    outcome = case.launch(READY + notice + "step(1, reward=0.5, nothing=None); step(2, reward=0.75)")
    assert case.notices == ["step 1 is sampled again"]
    assert case.phases == ["ray", "workers", "engine", "training"]
    assert case.steps == [(1, {"reward": 0.5}), (2, {"reward": 0.75})]
    assert outcome.steps == 2
    assert outcome.metrics == tuple(case.steps)
    assert list(outcome.phase_seconds) == case.phases
    assert sum(outcome.phase_seconds.values()) == pytest.approx(outcome.seconds, abs=0.1)
    case.assert_clean()


@pytest.mark.slow
def test_metrics_of_launches_add_up(case: Case) -> None:
    case.launch(READY + "step(1, reward=0.5)", steps=1)
    case.saved(1)
    outcome = case.launch(READY + "step(2, reward=0.6)", steps=2, resume=True)
    records = [json.loads(line) for line in outcome.metrics_file.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]


@pytest.mark.slow
def test_a_run_that_starts_afresh_has_logs_of_its_own(case: Case) -> None:
    case.launch(READY + "step(0, reward=0.1); step(1, reward=0.5)", steps=1)
    outcome = case.launch(READY + "step(1, reward=0.6)", steps=1)
    records = [json.loads(line) for line in outcome.metrics_file.read_text().splitlines()]
    assert records == [{"step": 1, "data": {"reward": 0.6}}]
    (aside,) = outcome.log_file.parent.glob("*.repeated.metrics.jsonl")
    assert [json.loads(line)["step"] for line in aside.read_text().splitlines()] == [0, 1]


def test_gets_the_arguments_of_verl(case: Case) -> None:
    case.launch(READY + "say('arguments ' + json.dumps(sys.argv[1:])); step(2)")
    arguments = json.loads(case.log()["arguments"])
    assert arguments[:4] == ["--config-path", str(case.folder / "run"), "--config-name", "config"]
    # Hydra would make a folder of its own for each launch.
    assert {"hydra.output_subdir=null", "hydra.run.dir=."} <= set(arguments)


def test_death_names_phase_cause_and_log(case: Case) -> None:
    body = "say('Started a local Ray instance.'); raise ValueError('no model at /models/x')"
    with pytest.raises(
        TrainingError, match=r"phase 'workers'.*exit code 1: ValueError: no model at /models/x"
    ) as error:
        case.launch(body)
    assert str(max((case.folder / "run" / "logs").glob("*.log"))) in str(error.value)
    case.assert_clean()


@pytest.mark.parametrize(
    "fault",
    [
        "OSError: [Errno 28] No space left on device",
        "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
    ],
)
def test_a_full_disk_is_named_with_what_to_do(case: Case, fault: str) -> None:
    with pytest.raises(TrainingError, match="no space is left on the disk of") as failure:
        case.launch(f"say({fault!r}); raise ValueError('there is no checkpoint')")
    message = str(failure.value)
    assert f"{case.folder / 'run'} or " in message
    assert "name it with agentfly.out=FOLDER; the same command continues from the newest checkpoint" in message


def test_a_full_disk_that_cut_off_the_log_as_well_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=0 if path == case.folder / "run" else 10**9)

    monkeypatch.setattr("agentfly.training.launch.launcher.shutil.disk_usage", usage)
    with pytest.raises(TrainingError, match=rf"no space is left on the disk of {case.folder / 'run'}: free some"):
        case.launch("sys.exit(1)")


def test_a_cluster_that_does_not_answer_is_told_with_what_to_check(case: Case) -> None:
    with pytest.raises(TrainingError, match="RAY_AUTH_MODE=token"):
        case.launch("say('ConnectionError: Failed to connect to Ray cluster at 10.0.0.1:6379'); sys.exit(1)")


def test_death_by_signal_is_named(case: Case) -> None:
    with pytest.raises(TrainingError, match=r"phase 'training, step 2'.*signal SIGKILL"):
        case.launch(READY + "step(1); time.sleep(0.5); os.kill(os.getpid(), 9)")
    case.assert_clean()


def test_an_early_end_is_an_error(case: Case) -> None:
    with pytest.raises(TrainingError, match="ended after step 1 of 2"):
        case.launch(READY + "step(1)")


@pytest.mark.parametrize(
    ("body", "phase", "limit"),
    [
        ("time.sleep(60)", "ray", "ray"),
        ("say('Started a local Ray instance.'); time.sleep(60)", "workers", "start"),
        (READY + "time.sleep(60)", "training, step 1", "rollout"),
        (READY + "step(1); time.sleep(60)", "training, step 2", "rollout"),
        (READY + f"say({SAMPLED!r}); time.sleep(60)", "training, step 1", "update"),
    ],
)
def test_a_hang_ends_the_run(case: Case, body: str, phase: str, limit: str) -> None:
    patience = {"ray": 9.0, "start": 9.0, "rollout": 9.0, "update": 9.0} | {limit: 1.0}
    with pytest.raises(
        TrainingError, match=rf"phase '{phase}': nothing moved for \d+ s.*\(agentfly\.patience\.{limit}=1\)"
    ):
        case.launch(body, patience=Patience(**patience))
    case.assert_clean()


def test_a_trainer_that_ignores_sigterm_ends_too(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentfly.training.launch.launcher._GRACE_SECONDS", 0.3)
    body = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(60)"
    with pytest.raises(TrainingError, match="nothing moved"):
        case.launch(body, patience=Patience(start=5, rollout=0.5))
    case.assert_clean()


def test_sigterm_cleans_up(case: Case) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        case.launch(
            READY + "step(1); time.sleep(60)",
            on_step=lambda step, metrics: os.kill(os.getpid(), signal.SIGTERM),
        )
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    case.assert_clean()


def test_ctrl_c_cleans_up(case: Case) -> None:
    with pytest.raises(KeyboardInterrupt):
        case.launch(
            READY + "step(1); time.sleep(60)",
            on_step=lambda step, metrics: os.kill(os.getpid(), signal.SIGINT),
        )
    case.assert_clean()


def test_resume_with_nothing_left_to_do(case: Case) -> None:
    checkpoint = case.saved(2)
    outcome = case.launch(READY, resume=True)
    assert outcome.steps == 2
    assert outcome.checkpoint == checkpoint


def test_without_resume_old_checkpoints_count_for_nothing(case: Case) -> None:
    (case.folder / "run" / "checkpoints" / "global_step_2").mkdir(parents=True)
    with pytest.raises(TrainingError, match="ended after step 0 of 2"):
        case.launch(READY)


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    return settings_in(tmp_path, environment={"OMP_NUM_THREADS": "7"})


def test_environment_on_a_cpu(settings: TrainSettings, tmp_path: Path) -> None:
    base = {"VLLM_CPU_KVCACHE_SPACE": "", "HOME": "/home/me"}
    environment = run_environment(settings, "one", tmp_path, tmp_path / "metrics.jsonl", base)
    # vLLM cannot parse an empty size.
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment
    assert FORWARDED_VARIABLE not in environment
    assert environment["VERL_PLATFORM"] == "cpu"
    # Beside another program on its core, a worker of niceness 15 took thirty times as long for a step.
    assert environment["RAY_worker_niceness"] == "0"
    assert environment["HOME"] == "/home/me"
    assert environment[MARKER] == "one"
    assert environment["OMP_NUM_THREADS"] == "7"  # the run's own settings win
    # The parts of a divided engine need no NUMA node each, unless somebody has said which cores they get.
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    bound = run_environment(settings, "one", tmp_path, tmp_path / "m", {"VLLM_CPU_OMP_THREADS_BIND": "0|1"})
    assert bound["VLLM_CPU_OMP_THREADS_BIND"] == "0|1"


def test_loggers_write_into_the_folder_of_the_run_unless_somebody_says_where(
    settings: TrainSettings, tmp_path: Path
) -> None:
    out = settings.out.absolute()
    found = run_environment(settings, "one", tmp_path, tmp_path / "m", {"WANDB_DIR": "/elsewhere"})
    assert (found["TENSORBOARD_DIR"], found["WANDB_DIR"]) == (str(out / "tensorboard"), "/elsewhere")
    assert run_environment(settings, "one", tmp_path, tmp_path / "m", {})["WANDB_DIR"] == str(out)


def test_a_run_brings_its_variables_to_a_cluster_that_runs_already(settings: TrainSettings, tmp_path: Path) -> None:
    base = {"RAY_ADDRESS": "10.0.0.1:6379", "HOME": "/home/me", "PYTHONPATH": "/mine", "OPENAI_API_KEY": "sk-secret"}
    environment = run_environment(settings, "one", tmp_path, tmp_path / "m", base)
    names = set(environment[FORWARDED_VARIABLE].split())
    assert names >= {
        MARKER,
        "VERL_PLATFORM",
        "VERL_FILE_LOGGER_PATH",
        "OMP_NUM_THREADS",
        "AGENTFLY_STACKS",
        "PYTHONPATH",
    }
    # Folders are those of each machine, and a key would be shown by Ray's dashboard.
    assert not names & {"HOME", "TMPDIR", "RAY_TMPDIR", "OPENAI_API_KEY", "RAY_ADDRESS", "RAY_JOB_ID"}
    assert "RAY_JOB_ID" not in environment


def test_environment_with_gpus_keeps_the_cluster(settings: TrainSettings, tmp_path: Path) -> None:
    cuda = settings.model_copy(update={"device": "cuda"})
    environment = run_environment(cuda, "one", tmp_path, tmp_path / "m", {"RAY_ADDRESS": "10.0.0.1:6379"})
    assert environment["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert "VERL_PLATFORM" not in environment
    assert "TORCHDYNAMO_DISABLE" not in environment
    assert "HF_HUB_OFFLINE" not in environment


def test_a_hub_that_is_out_of_reach_is_not_asked_by_any_process_of_a_run(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = settings.model_copy(update={"device": "cuda", "model": "owner/name"})
    for answers, offline in ((True, None), (False, "1")):
        monkeypatch.setattr("agentfly.training.launch.environment.hub_answers", lambda answers=answers: answers)
        environment = run_environment(cuda, "one", tmp_path, tmp_path / "m", {})
        assert environment.get("HF_HUB_OFFLINE") == offline
