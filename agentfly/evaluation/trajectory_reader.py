"""Read trajectories that were recorded earlier, from any source.

Sources are the runs of `agentfly eval`, the log folders of `Agent.run(log_dir=…)`, the chains that training logs
(`trajectory_log`, the quickstart's `trajectories.jsonl`), and files with one trajectory per line. Only an evaluation
has its complete tasks. For the others, instruction and source image are taken from the first messages, and the rest of
the task from its data set, by the task's id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agentfly.agents.tasks import TaskFacts
from agentfly.agents.trajectory import Trajectory
from agentfly.agents.trajectory_file import FILE_NAME, image_folder, read_trajectories
from agentfly.datasets.task import EditTask
from agentfly.errors import ConfigError
from agentfly.images import ImageStore


@dataclass(frozen=True)
class Recorded:
    """One recorded chain.

    Attributes:
        id: unique in its recording: the task's id, with `#2`, `#3`, ... for further chains of the task.
        task: what is known of the task.
        trajectory: what was done.
        whole: whether the task is known whole, not only from the messages.
    """

    id: str
    task: TaskFacts
    trajectory: Trajectory
    whole: bool


@dataclass(frozen=True)
class Recording:
    """A file of trajectories and where its images are.

    Attributes:
        path: the file.
        chains: in the order of the file; of a chain that was written twice, the last.
        images: folder of the images, None where none were kept.
    """

    path: Path
    chains: tuple[Recorded, ...]
    images: Path | None

    def store(self) -> ImageStore:
        """The images; a store without any where none were kept."""
        return ImageStore(self.images)

    def with_tasks(self, tasks: Iterable[EditTask], store: ImageStore) -> Recording:
        """The recording with tasks of its data set where it does not know them whole; their images go to `store`.

        Raises:
            ImageError: an image of a task cannot be loaded.
        """
        wanted = {chain.task.id for chain in self.chains if not chain.whole}
        found: dict[str, TaskFacts] = {}
        for task in tasks if wanted else ():
            if task.id in wanted and task.id not in found:
                found[task.id] = TaskFacts.keep(task, store)
            if len(found) == len(wanted):
                break
        chains = (
            replace(c, task=found[c.task.id], whole=True) if not c.whole and c.task.id in found else c
            for c in self.chains
        )
        return replace(self, chains=tuple(chains))


def read_recording(run: Path, images: Path | None = None, limit: int | None = None) -> Recording:
    """Read a recording.

    Args:
        run: a folder with `trajectories.jsonl`, or a file.
        images: folder of the images; without it, the one beside the file.
        limit: chains at most.

    Raises:
        ConfigError: there is none, or a line cannot be read.
    """
    path = run / FILE_NAME if run.is_dir() else run
    if not path.is_file():
        others = sorted(str(file.relative_to(run)) for file in run.rglob("*.jsonl"))[:5] if run.is_dir() else []
        hint = f"; there is {', '.join(others)}: name one of them" if others else ""
        raise ConfigError(f"there are no trajectories at {str(path)!r}{hint}")
    if images is not None and not images.is_dir():
        raise ConfigError(f"there is no folder {str(images)!r}: --images names the folder of the images")
    last: dict[str, tuple[TaskFacts, Trajectory, bool]] = {}
    for _, line in read_trajectories(path):
        task = line.described_task()
        last[task.id if line.whole_task else line.trajectory.id] = (task, line.trajectory, line.whole_task)
    if not last:
        raise ConfigError(f"{str(path)!r} has no finished trajectory")
    return Recording(path, tuple(_numbered(list(last.values())[:limit])), images or image_folder(path))


def _numbered(found: Iterable[tuple[TaskFacts, Trajectory, bool]]) -> Iterator[Recorded]:
    seen: Counter[str] = Counter()
    for task, trajectory, whole in found:
        seen[task.id] += 1
        count = seen[task.id]
        yield Recorded(task.id if count == 1 else f"{task.id}#{count}", task, trajectory, whole)
