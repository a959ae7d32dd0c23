"""Hand shown chains to W&B, Trackio and TensorBoard, in a thread that a run neither waits for nor fails with.

verl opens these loggers and writes its scalars; here the same runs get images. A fault of a library is one warning.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentfly.errors import AgentFlyError, first_line
from agentfly.images import ImageStore
from agentfly.training.recipe.record_settings import ShownChains
from agentfly.training.recording.shown_chains import ShownChain, choose, draw, new_chains

logger = logging.getLogger(__name__)

LogImages = Callable[[Sequence[ShownChain], int], None]
PREFIX = "chain_images/"  # of the names that the loggers show
_WAITING = 2  # steps that wait for the thread; more are shown with a later one


def wandb_images(wandb: Any) -> LogImages:
    """Return a function that logs chains to the present run of W&B.

    Args:
        wandb: the module, whose run has begun.
    """
    run = wandb.run

    def log(shown: Sequence[ShownChain], step: int) -> None:
        images = {f"{PREFIX}{chain.name}": wandb.Image(chain.image, caption=chain.caption) for chain in shown}
        # W&B drops what comes with the number of an earlier step. Without a number it goes to the step that is open,
        # which is this one, or the next where the thread is late; the caption has the number.
        run.log(images, commit=False)

    return log


def trackio_images(trackio: Any) -> LogImages:
    """Return a function that logs chains to the present run of Trackio.

    Args:
        trackio: the module, whose run has begun in this thread.
    """
    # The present run is a context variable, which other threads do not see.
    run = trackio.context_vars.current_run.get()

    def log(shown: Sequence[ShownChain], step: int) -> None:
        run.log({f"{PREFIX}{chain.name}": trackio.Image(chain.image, caption=chain.caption) for chain in shown}, step)

    return log


def tensorboard_images(writer: Any) -> LogImages:
    """Return a function that logs chains to TensorBoard, each as an image and a text of the same name.

    Args:
        writer: verl's `SummaryWriter`.
    """

    def log(shown: Sequence[ShownChain], step: int) -> None:
        for chain in shown:
            pixels = np.asarray(chain.image.convert("RGB"))
            writer.add_image(f"{PREFIX}{chain.name}", pixels, step, dataformats="HWC")
            # Texts are Markdown: an indented line is shown as it is.
            writer.add_text(f"{PREFIX}{chain.name}", f"    {chain.caption}", step)
        writer.flush()

    return log


def image_loggers(loggers: Mapping[str, Any]) -> dict[str, LogImages]:
    """Return the functions that log images, by name.

    Args:
        loggers: verl's by name (`verl.utils.tracking.Tracking.logger`).
    """
    found: dict[str, LogImages] = {}
    if "wandb" in loggers:
        found["wandb"] = wandb_images(loggers["wandb"])
    if "trackio" in loggers:
        found["trackio"] = trackio_images(loggers["trackio"].trackio)
    if "tensorboard" in loggers:
        found["tensorboard"] = tensorboard_images(loggers["tensorboard"].writer)
    return found


class ChainShower:
    """Shows a few chains of each step in the loggers.

    Args:
        log: the run's `trajectories.jsonl`; chains that it has already are not shown.
        images: folder of its images.
        settings: which chains, and how large.
        loggers: see `image_loggers`.
        seed: of the choice at random.
    """

    def __init__(
        self, log: Path, images: Path, settings: ShownChains, loggers: Mapping[str, LogImages], seed: int = 0
    ) -> None:
        self._log, self._images = log, images
        self._settings, self._loggers, self._seed = settings, loggers, seed
        self._start = log.stat().st_size if log.is_file() else 0
        self._steps: queue.Queue[int | None] = queue.Queue(_WAITING)
        self._faults: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="agentfly-shower", daemon=True)
        self._thread.start()

    def show(self, step: int) -> None:
        """Have chains that were logged since the last call shown. Never waits.

        Where the loggers are slow, the chains are shown with those of a later step.

        Args:
            step: that has ended; 0 is the validation before the first one.
        """
        try:
            self._steps.put_nowait(step)
        except queue.Full:
            self._warn("slow", f"the loggers are slow: step {step} shows its chains later or not at all")

    def close(self, limit: float) -> None:
        """Wait until everything is shown, and end.

        Args:
            limit: seconds; what takes longer is given up.
        """
        end = time.monotonic() + limit
        try:
            self._steps.put(None, timeout=limit)
        except queue.Full:
            return
        self._thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while (step := self._steps.get()) is not None:
            try:
                self._show(step)
            except Exception as fault:  # the boundary of the thread
                self._warn("chains", f"chains of step {step} are not shown in the loggers: {first_line(fault)}")

    def _show(self, step: int) -> None:
        chains, self._start = new_chains(self._log, self._start)
        if step % self._settings.every:
            return
        store = ImageStore(self._images, max_bytes=0) if chains else ImageStore()
        shown: list[ShownChain] = []
        for prefix, validate in (("", False), ("validation_", True)):
            candidates = [chain for chain in chains if chain.validate == validate]
            for kind, facts in choose(candidates, self._settings.kinds, f"{self._seed}-{step}"):
                try:
                    shown.append(draw(self._log, store, prefix + kind, facts, self._settings))
                except AgentFlyError as fault:
                    self._warn("chains", f"a chain of step {step} is not shown in the loggers: {first_line(fault)}")
        for name, log in self._loggers.items() if shown else ():
            try:
                log(shown, step)
            except Exception as fault:  # libraries raise anything
                self._warn(name, f"{name} did not take the images of step {step}: {first_line(fault)}")

    def _warn(self, kind: str, text: str) -> None:
        """Tell the user, once for each kind of fault."""
        if kind not in self._faults:
            self._faults.add(kind)
            logger.warning("%s; training goes on", text)
