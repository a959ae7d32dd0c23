"""verl's loggers in the trainer's process, with four additions: the chains of a step are on the disk before its metrics
are logged, a few of them are shown as images, W&B works without a key, and a fault of a service ends no run.

verl has no setting for a `Tracking` of one's own. It makes its object in `PPOTrainer.fit` from a name of its module
(verl/trainer/ppo/v1/trainer_base.py:423), and `use_step_tracking` puts ours under that name.
"""

from __future__ import annotations

import logging
import netrc
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from verl.trainer.ppo.v1 import trainer_base
from verl.utils.tracking import Tracking

from agentfly.errors import first_line
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recording.image_loggers import ChainShower, image_loggers

logger = logging.getLogger(__name__)

Drain = Callable[[float], bool]

_OWN = ("console", "file")  # the launcher needs them: their faults end a run, as verl has it
_DRAIN_SECONDS = 30.0
# Together well below the minute that the launcher gives the trainer after its last step.
_LAST_DRAIN_SECONDS = 5.0
_SHOW_SECONDS = 20.0


def use_step_tracking(settings: TrainSettings, drain: Drain) -> None:
    """Have the trainer of this process use `StepTracking`.

    Args:
        settings: of the run.
        drain: waits, for seconds at most, until the chains that have finished are on the disk.
    """
    trainer_base.Tracking = partial(StepTracking, settings=settings, drain=drain)


class StepTracking(Tracking):  # type: ignore[misc, unused-ignore]
    """verl's `Tracking`; see the module.

    Args:
        project_name, experiment_name, default_backend, config: verl's.
        settings: of the run.
        drain: see `use_step_tracking`.
    """

    def __init__(
        self,
        project_name: str,
        experiment_name: str,
        default_backend: str | list[str] = "console",
        config: Any = None,
        *,
        settings: TrainSettings,
        drain: Drain,
    ) -> None:
        self._drain: Drain | None = drain
        self._shower: ChainShower | None = None
        self._failed: set[str] = set()
        given = [default_backend] if isinstance(default_backend, str) else list(default_backend)
        if "wandb" in given:
            work_offline_without_key()
        super().__init__(project_name, experiment_name, given, config)
        self._shower = self._make_shower(settings)

    def _make_shower(self, settings: TrainSettings) -> ChainShower | None:
        if settings.show_chains is None or not (loggers := image_loggers(self.logger)):
            return None
        if settings.images is None or not settings.trajectories:
            logger.warning(
                "%s get no images of chains: agentfly.images and agentfly.trajectories must be on for that",
                " and ".join(loggers),
            )
            return None
        return ChainShower(
            settings.trajectory_log, settings.image_dir, settings.show_chains, loggers, seed=settings.seed
        )

    def log(self, data: Mapping[str, Any], step: int, backend: Any = None) -> None:
        """Log the metrics of a step after its chains; see verl's method."""
        self._wait_for_chains()
        for name, target in self.logger.items():
            if backend is not None and name not in backend:
                continue
            try:
                target.log(data=data, step=step)
            except Exception as fault:  # libraries raise anything
                if name in _OWN:
                    raise
                self._warn(name, f"{name} did not take the metrics of step {step}: {first_line(fault)}")
        if self._shower is not None:
            self._shower.show(step)

    def finish(self, exit_code: int = 0) -> None:
        """End the loggers, with the last chains in them; see verl's method."""
        if getattr(self, "_finished", True):
            return
        if exit_code == 0:
            self._wait_for_chains(_LAST_DRAIN_SECONDS)
        if self._shower is not None:
            self._shower.close(_SHOW_SECONDS)
        try:
            super().finish(exit_code)
        except Exception as fault:  # libraries raise anything
            self._warn("finish", f"a logger did not end well: {first_line(fault)}")

    def _wait_for_chains(self, limit: float = _DRAIN_SECONDS) -> None:
        if self._drain is not None and not self._drain(limit):
            self._drain = None
            self._warn("chains", f"chains were not written within {limit:.0f} s, and are not waited for again")

    def _warn(self, kind: str, text: str) -> None:
        """Tell the user, once for each kind of fault."""
        if kind not in self._failed:
            self._failed.add(kind)
            logger.warning("%s; training goes on", text)


def work_offline_without_key(environment: Mapping[str, str] | None = None) -> None:
    """Have W&B write to the disk alone where it has no key: it would end the run before the first step.

    Args:
        environment: variables to look at; this process's own when None.
    """
    variables = os.environ if environment is None else environment
    named = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if any(variables.get(name) for name in named) or _has_login(variables):
        return
    os.environ["WANDB_MODE"] = "offline"
    logger.warning(
        "W&B has no key (WANDB_API_KEY, or `wandb login`), and works offline: `wandb sync FOLDER` uploads the run later"
    )


def _has_login(variables: Mapping[str, str]) -> bool:
    """Return True if the file of `wandb login` has a key for the server that is used."""
    host = urlsplit(variables.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    for path in filter(None, [variables.get("NETRC"), "~/.netrc", "~/_netrc"]):
        try:
            if netrc.netrc(os.path.expanduser(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
