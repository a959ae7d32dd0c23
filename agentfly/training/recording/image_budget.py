"""The limit of the images that a run keeps, and the choice of the chains that keep theirs as it comes near.

Up to half of the limit every chain keeps its images. From there on a share of the tasks does, so that the other half
lasts until the last step:

    share = bytes that are left / (steps that are left x bytes of a step so far)

It is fixed when a step begins. So a task keeps or loses the images of all its chains of a step, and groups stay whole.
The tasks of a smaller share are among those of a larger one: the same tasks can be compared over all steps. Chains of a
validation keep their images as long as there is room at all.

No process asks another one. Sizes and shares lie in a file beside the images, which is changed under a lock.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from agentfly.files import change_shared
from agentfly.training.launch.log_reader import NOTICE
from agentfly.training.recipe.record_settings import GB

logger = logging.getLogger(__name__)

_STATE = ".budget.json"
_STEPS = 32  # whose shares are remembered: more than an asynchronous trainer has in work
_GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, are spread evenly, however many are taken
_SPARE = 512 * 1024**2  # bytes of the disk that images never take


@dataclass
class _State:
    """The content of the file.

    Attributes:
        used: bytes of all images.
        full: bytes of a step whose chains all keep their images; 0 before half of the limit is used.
        shares: by step.
        told: notices that were given.
    """

    used: int
    full: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)


_STATES = TypeAdapter(_State)


class ImageBudget:
    """Decides which chains keep their images; see the module. Several processes may have one for the same folder.

    Args:
        folder: of the images.
        max_bytes: of all images together; None for no limit.
        steps: training steps of the whole run.
        reserved: returns the bytes that the disk must have room for besides, such as those of checkpoints.
    """

    def __init__(
        self, folder: Path, max_bytes: int | None, steps: int, reserved: Callable[[], int] = lambda: 0
    ) -> None:
        self.folder = folder
        self._limit, self._steps, self._reserved = max_bytes, steps, reserved
        # As the file had them when this process last changed it.
        self._used = 0
        self._shares: dict[int, float] = {}
        self._told: set[str] = set()

    def allows(self, step: int, row: int, *, validate: bool) -> bool:
        """Return True if a chain may keep its images.

        Args:
            step: training step; negative where there is none.
            row: number of the task in its file.
            validate: the chain belongs to a validation.

        Raises:
            OSError: the folder cannot be written to.
        """
        if shutil.disk_usage(self.folder).free < self._reserved() + _SPARE:
            self._tell("disk")
            return False
        if self._limit is None:
            return True
        if step not in self._shares:
            # Of a step that has no number nothing is remembered, here or in the file.
            state = self._change(step=step)
            self._shares |= {int(known): share for known, share in state.shares.items()}
            self._shares.setdefault(step, self._share(state, step))
        if self._used >= self._limit:
            self._tell("full")
            return False
        share = self._shares.pop(step) if step < 0 else self._shares[step]
        if share < 1.0:
            self._tell("half")
        return validate or place_of(row) < share

    def spend(self, size: int) -> None:
        """Count the bytes of new images.

        Raises:
            OSError: the folder cannot be written to.
        """
        if size and self._limit is not None:
            self._change(size=size)

    def _share(self, state: _State, step: int) -> float:
        """Return the share of the tasks that keep their images in a step which begins now."""
        if self._limit is None or 2 * state.used < self._limit:
            return 1.0
        state.full = state.full or state.used / max(1, step - 1)
        return min(1.0, (self._limit - state.used) / (max(1, self._steps - step + 1) * state.full))

    def _change(self, *, step: int = -1, size: int = 0, event: str = "") -> _State:
        """Change the shared file and return its new content.

        Args:
            step: has its share fixed, unless it is negative.
            size: bytes that are added.
            event: a notice that is given; "" for none.
        """
        found = _State(0)

        def change(data: bytes) -> bytes:
            nonlocal found
            found = self._read(data)
            found.used += size
            if step >= 0 and str(step) not in found.shares:
                found.shares[str(step)] = self._share(found, step)
                found.shares = dict(list(found.shares.items())[-_STEPS:])
            if event and event not in found.told:
                found.told.append(event)
                logger.warning("%s %s", NOTICE, self._words(event))
            return json.dumps(asdict(found)).encode()

        change_shared(self.folder / _STATE, change)
        self._used = found.used
        return found

    def _tell(self, event: str) -> None:
        """Give a notice, unless a process of the run has given it."""
        if event not in self._told:
            self._told.add(event)
            self._change(event=event)

    def _read(self, data: bytes) -> _State:
        """Return the content of the file; where it is missing or damaged, the images are counted."""
        try:
            return _STATES.validate_json(data)
        except ValidationError:
            return _State(sum(path.stat().st_size for path in self.folder.glob("*.png")))

    def _words(self, event: str) -> str:
        limit = f"agentfly.images.max_gb={(self._limit or 0) / GB:g}"
        return {
            "disk": f"the disk of {self.folder} has little room left: until it has more, no images of chains are kept",
            "half": f"half of {limit} is used: from now on a part of the tasks keeps the images of its chains",
            "full": f"{self.folder} has reached {limit}: no more images of chains are kept",
        }[event]


def place_of(row: int) -> float:
    """Return the place of a task between 0 and 1: evenly spread, and the same in every process and step."""
    return (row + 1) * _GOLDEN % 1.0
