"""Run verl's PPO trainer in a child process, watch over it, and leave nothing behind.

`launch` returns when training is done. It raises `TrainingError` when the trainer cannot start, hangs or dies; the
message names the phase, the cause and the log. In each case, and on Ctrl-C and SIGTERM, every process of the run and
its shared memory are gone afterwards. Another Ray on the same machine is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pydantic import BaseModel, ConfigDict

from agentfly import cleanup
from agentfly.errors import TrainingError, says_disk_full, short_paths
from agentfly.process_tree import ProcessFamily
from agentfly.training.launch.checkpoints import newest_checkpoint, step_of
from agentfly.training.launch.environment import STACKS, run_environment
from agentfly.training.launch.evaluator_sleep import EvaluatorServers
from agentfly.training.launch.log_reader import (
    LineReader,
    Phase,
    PhaseReader,
    clean,
    last_error,
    notice_in,
    parse_metrics,
)
from agentfly.training.launch.preload.start import start as start_preloaded
from agentfly.training.launch.resume import cut_back, only_run, resume_checkpoint
from agentfly.training.launch.watchdogs import Alarm, Watchdogs
from agentfly.training.recipe.checks import RAY_ADDRESS
from agentfly.training.recipe.settings import TrainSettings

logger = logging.getLogger(__name__)

OnStep = Callable[[int, dict[str, float]], None]
OnPhase = Callable[[Phase], None]
OnNotice = Callable[[str], None]

_DRIVER = ("-m", "agentfly.training.verl.driver")
_POLL_SECONDS = 0.2
_NO_CLUSTER = "Failed to connect to Ray cluster"  # ray/_private/worker.py:2008
_MEMBER_SECONDS = 5.0  # between two looks at the processes of the run
_GRACE_SECONDS = 5.0
_TAIL_LINES = 15
_DISK_LINES = 200
_LEAST_FREE = 4 * 1024 * 1024  # bytes; with less, not even the logs can be written


@dataclass(frozen=True)
class Launch:
    """A run to launch: its written configuration, and the parts of it that the launcher itself needs.

    Attributes:
        config_file: complete; see `agentfly.training.recipe.compose.write`.
        settings: its node `agentfly`.
        steps: training steps of the whole run, those of earlier launches included.
        resume: continue from the newest checkpoint if there is one.
        resume_from: continue from this checkpoint instead.
        validates_first: verl validates before the first step, also of a resumed run.
    """

    config_file: Path
    settings: TrainSettings
    steps: int
    resume: bool = False
    resume_from: Path | None = None
    validates_first: bool = False

    def arguments(self) -> list[str]:
        """Return the command line of verl's trainer.

        Hydra is told to write no files of its own: the run has its log and its folder.
        """
        where = ["--config-path", str(self.config_file.parent), "--config-name", self.config_file.stem]
        return [*where, "hydra/job_logging=stdout", "hydra.output_subdir=null", "hydra.run.dir=."]


class TrainingOutcome(BaseModel):
    """Results of a finished run.

    Attributes:
        steps: number of the last step.
        seconds: wall-clock time of this launch.
        phase_seconds: the same, by phase ("ray", "workers", "engine", "training").
        metrics: metrics of each step of this launch, in order.
        metrics_file: JSONL, with the metrics of the launches before it: {"step": n, "data": {name: value}}.
        log_file: all output of all processes.
        checkpoint: newest `global_step_<n>` folder, None if none was written.
    """

    model_config = ConfigDict(frozen=True)

    steps: int
    seconds: float
    phase_seconds: dict[Phase, float]
    metrics: tuple[tuple[int, dict[str, float]], ...]
    metrics_file: Path
    log_file: Path
    checkpoint: Path | None


def launch(
    run: Launch,
    *,
    on_step: OnStep | None = None,
    on_phase: OnPhase | None = None,
    on_notice: OnNotice | None = None,
    driver: tuple[str, ...] = _DRIVER,
) -> TrainingOutcome:
    """Train until the last step, or until something goes wrong.

    Args:
        run: see `Launch`.
        on_step: called after each step with its number and verl's metrics, e.g. `critic/rewards/mean` and
            `timing_s/step`; a validation before the first step is step 0.
        on_phase: called when a phase begins.
        on_notice: called with the trainer's messages to the user, such as a step that is sampled again.
        driver: arguments of the Python interpreter before those of Hydra.

    Raises:
        ConfigError: another process trains in the run's folder.
        TrainingError: the trainer or one of its processes died, or a part made no progress for as long as
            `agentfly.patience` allows.
    """
    with only_run(run.settings.out):
        process = _TrainerProcess(run, on_step, on_phase, on_notice)
        with signals_raise() as ignore_signals:
            try:
                process.start(driver)
                process.follow()
            except BaseException:
                with ignore_signals():
                    process.end(failed=True)
                raise
            with ignore_signals():
                process.end(failed=False)
        return process.outcome()


class _TrainerProcess:
    """One launch: its files, its child process, and its clock."""

    def __init__(
        self, run: Launch, on_step: OnStep | None, on_phase: OnPhase | None, on_notice: OnNotice | None
    ) -> None:
        self._run, self._settings = run, run.settings
        self._on_step = on_step or (lambda step, metrics: None)
        self._on_phase = on_phase or (lambda phase: None)
        self._on_notice = on_notice or (lambda text: None)
        self._id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        logs = self._settings.out.absolute() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self._log_file = logs / f"{self._id}.log"
        self._verl_metrics_file = logs / f"{self._id}.metrics.jsonl"
        self._metrics_file = self._settings.metrics_log.absolute()
        self._scratch = Path(tempfile.mkdtemp(prefix="agentfly-", dir="/tmp"))
        self._log, self._metrics_lines = LineReader(self._log_file), LineReader(self._verl_metrics_file)
        self._phases = PhaseReader()
        self._family = ProcessFamily(self._id)
        self._child: subprocess.Popen[bytes] | None = None
        self._preloaded: subprocess.Popen[bytes] | None = None
        self._metrics: list[tuple[int, dict[str, float]]] = []
        self._resumed_step = 0
        self._times: dict[Phase, float] = {}
        self._began = time.monotonic()
        self._ended = 0.0
        self._cleanup: subprocess.Popen[bytes] | None = None
        self._stacks = self._scratch / STACKS
        self._stacks.mkdir()
        self._watchdogs = Watchdogs(self._settings, run.steps, self._stacks)

    def start(self, driver: tuple[str, ...]) -> None:
        """Cut the logs back to the checkpoint that the run resumes from, and start the trainer."""
        settings, run = self._settings, self._run
        if run.resume:
            self._resumed_step = step_of(resume_checkpoint(settings.checkpoint_dir, run.resume_from))
        kept = self._resumed_step if run.resume else -1
        for file in (self._metrics_file, settings.trajectory_log.absolute()):
            aside = self._log_file.with_suffix(f".repeated.{file.name}")
            cut_back(file, kept, aside, revalidates=run.validates_first)
        environment = run_environment(settings, self._id, self._scratch, self._verl_metrics_file)
        logger.info("training starts; its log is %s", self._log_file)
        self._enter("ray")
        python, arguments = sys.executable, run.arguments()
        # Not on a GPU: a fork of a process that has touched CUDA cannot use it, and no library promises not to. Nor in
        # a cluster that runs already: it starts its workers itself.
        if settings.device == "cpu" and driver == _DRIVER and RAY_ADDRESS not in environment:
            log_file = self._log_file.with_suffix(".preload.txt")
            if (preloaded := start_preloaded(environment, self._scratch, log=log_file)) is not None:
                self._preloaded, python = preloaded.server, str(preloaded.program)
                arguments.append(f"++ray_kwargs.ray_init.runtime_env.py_executable={python}")
        with self._log_file.open("wb") as log:
            self._child = subprocess.Popen(
                [python, *driver, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        # Forks stay in the session of their parent.
        session = (self._preloaded or self._child).pid
        self._family = ProcessFamily(self._id, session=session)
        self._cleanup = cleanup.start(self._id, session, self._scratch)

    def follow(self) -> None:
        """Report progress until the child ends; raise `TrainingError` when it ends badly or hangs."""
        assert self._child is not None
        noted = time.monotonic()
        while (code := self._child.poll()) is None:
            self._report()
            self._raise_alarm(self._watchdogs.check_time(self._times, self._last_step()))
            if time.monotonic() - noted > _MEMBER_SECONDS:
                self._family.note_shared_memory()
                chains = self._settings.trajectory_log
                self._watchdogs.note_chains(chains.stat().st_size if chains.exists() else 0)
                self._raise_alarm(self._watchdogs.check_members(self._family.titles(), self._last_step()))
                noted = time.monotonic()
            time.sleep(_POLL_SECONDS)
        self._report()
        if code != 0:
            ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise self._failure(f"the trainer ended with {ending}")
        if self._last_step() < self._run.steps:
            raise self._failure(f"the trainer ended after step {self._last_step()} of {self._run.steps}")

    def end(self, *, failed: bool) -> None:
        """End every process of the run and remove what is temporary."""
        self._ended = time.monotonic()
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_SECONDS)
        self._family.end()
        for process in (child, self._preloaded):
            if process is not None:
                process.wait()
        for left in EvaluatorServers(self._settings).leave_awake():
            self._on_notice(left)
        if failed:
            for session in self._scratch.glob("ray/session_2*/logs"):
                with contextlib.suppress(shutil.Error, OSError):
                    shutil.copytree(session, self._log_file.with_suffix(".ray"), dirs_exist_ok=True)
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._cleanup is not None:
            cleanup.stop(self._cleanup)

    def outcome(self) -> TrainingOutcome:
        """Return the results of a run that has ended."""
        begins = [*self._times.values(), self._ended]
        durations = {phase: begins[i + 1] - begins[i] for i, phase in enumerate(self._times)}
        return TrainingOutcome(
            steps=self._last_step(),
            seconds=self._ended - self._began,
            phase_seconds=durations,
            metrics=tuple(self._metrics),
            metrics_file=self._metrics_file,
            log_file=self._log_file,
            checkpoint=newest_checkpoint(self._settings.checkpoint_dir),
        )

    def _report(self) -> None:
        for line in self._log.new_lines():
            self._watchdogs.note_line(line)
            if (text := notice_in(line)) is not None:
                self._on_notice(text)
            for phase in self._phases.read(line):
                self._enter(phase)
        lines = self._metrics_lines.new_lines()
        for line in lines:
            step, values = parse_metrics(line)
            self._metrics.append((step, values))
            self._watchdogs.note_progress()
            self._on_step(step, values)
        if lines:
            with self._metrics_file.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)

    def _enter(self, phase: Phase) -> None:
        if phase not in self._times:
            self._times[phase] = time.monotonic()
            self._watchdogs.note_progress()
            self._on_phase(phase)

    def _raise_alarm(self, alarm: Alarm | None) -> None:
        if alarm is not None:
            raise self._failure(alarm.message, hung=alarm.hung)

    def _last_step(self) -> int:
        return max((step for step, _ in self._metrics), default=self._resumed_step)

    def _failure(self, message: str, *, hung: bool = False) -> TrainingError:
        """Return an error with the phase, the message, the cause from the log, and the log's last lines.

        Args:
            message: the trainer's end, or its hang.
            hung: see `Alarm`.
        """
        phase: str = list(self._times)[-1]
        if phase == "training":
            phase = f"training, step {self._last_step() + 1}"
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        # An error from before the run last moved did not stop it.
        error = last_error(list(self._watchdogs.recent) if hung else lines)
        tail = "\n".join(f"  | {short_paths(clean(line))[:300]}" for line in lines[-_TAIL_LINES:])
        cause = f": {error}" if error else ""
        if _NO_CLUSTER in cause:
            cause += (
                f"\ncheck {RAY_ADDRESS}: does the head of the cluster answer there? Where it wants a token "
                "(~/.ray/auth_token), `export RAY_AUTH_MODE=token`"
            )
        if full := self._full_disks(lines):
            cause += (
                f"\nno space is left on the disk of {full}: free some, or move the run's folder to another disk and "
                "name it with agentfly.out=FOLDER; the same command continues from the newest checkpoint"
            )
        return TrainingError(f"phase {phase!r}: {message}{cause}\nfull log: {self._log_file}\n{tail}")

    def _full_disks(self, lines: list[str]) -> str:
        """Return the folders of the run on full disks; empty if the failure has nothing to do with that.

        Args:
            lines: of the log. The log may lie on the full disk itself, and then lacks the words that would say so.
        """
        # Checkpoints go to the run's folder, what Ray spills to the scratch folder.
        folders = (self._settings.out.absolute(), self._scratch)
        full = [str(folder) for folder in folders if shutil.disk_usage(folder).free < _LEAST_FREE]
        if full:
            return " and ".join(full)
        # The last error may only be about the file that could not be written, and there may be space again.
        return " or ".join(map(str, folders)) if any(map(says_disk_full, lines[-_DISK_LINES:])) else ""


@contextlib.contextmanager
def signals_raise() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Turn SIGTERM into SystemExit, as Python turns SIGINT into KeyboardInterrupt.

    Yields a function; in the context that it returns, both signals are ignored. Signals reach the main thread only, so
    in other threads nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield contextlib.nullcontext
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def ignore_signals() -> Iterator[None]:
        before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            yield
        finally:
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
                signal.signal(number, handler)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield ignore_signals
    finally:
        signal.signal(signal.SIGTERM, before)
