"""The log folder of a run. Every finished chain is one line on disk before it counts as finished.

A log folder holds `trajectories.jsonl` and the images in `images/`. A line is written in one append and synced, after
its images. So a process that is killed at any moment loses only the chains in progress; at most the last line is
incomplete, and the next start removes it. A second start returns what is finished and runs the rest. Chains that ended
with a fault (`StopReason.failed`) run again and then have a second line; the last line of a chain counts.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentfly.agents.trajectory import Trajectory
from agentfly.agents.trajectory_file import FILE_NAME, IMAGES, TrajectoryLine, read_trajectories
from agentfly.errors import ConfigError
from agentfly.files import LineFile
from agentfly.images import ImageStore


class RunLog:
    """The log folder of a run; one run at a time writes to it.

    Args:
        folder: made when it is not there.

    Attributes:
        images: store of the images in the folder.
        finished: chains of earlier runs by id, without those that a fault ended.

    Raises:
        ConfigError: another run writes to the folder, or its file is damaged beyond the last line.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.images = ImageStore(self.folder / IMAGES)
        self.finished: dict[str, Trajectory] = {}
        self._fingerprints: dict[str, str] = {}
        self._lines = LineFile(self.folder / FILE_NAME, f"log_dir={str(self.folder)!r}")
        try:
            self._lines.repair()
            self._read()
        except BaseException:
            self.close()
            raise

    def resume(self, chain: str, fingerprint: str) -> Trajectory | None:
        """Return the trajectory of a finished chain; None for any other.

        Raises:
            ConfigError: the folder has a chain of this id, but of another conversation.
        """
        known = self._fingerprints.setdefault(chain, fingerprint)
        if known != fingerprint:
            raise ConfigError(
                f"log_dir={str(self.folder)!r} has another conversation under the id {chain!r}; "
                "use another log_dir, or give the conversation another id"
            )
        return self.finished.get(chain)

    async def append(self, trajectory: Trajectory) -> None:
        """Write a finished chain; when this returns, it is on disk."""
        line = TrajectoryLine(trajectory, fingerprint=self._fingerprints.get(trajectory.id, ""))
        await asyncio.to_thread(lambda: self._lines.append(line.to_json()))

    def close(self) -> None:
        """Release the folder. Safe to call twice."""
        self._lines.close()

    def _read(self) -> None:
        for number, line in read_trajectories(self._lines.path):
            trajectory = line.trajectory
            if line.fingerprint is None:
                raise ConfigError(f"{self._lines.path}, line {number} is of another kind of run: use another log_dir")
            self._fingerprints[trajectory.id] = line.fingerprint
            if trajectory.stop_reason is None or trajectory.stop_reason.failed:
                self.finished.pop(trajectory.id, None)
            else:
                self.finished[trajectory.id] = trajectory
