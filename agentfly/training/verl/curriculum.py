"""verl's data set with a choice of its own: tasks from which the policy can learn come first.

verl 0.9.1 builds the sampler itself and takes none of anybody's (verl/trainer/ppo/utils.py:create_rl_sampler), but it
takes the data set from `data.custom_cls`. This one ignores the sampler's numbers and draws a row for each. It does so
in the trainer's process (`data.dataloader_num_workers=0`), where the replay buffer reports the chains of each step to
it. Its state lies in verl's `data.pt` beside the weights of a checkpoint, because verl's loader asks a data set that
has a `state_dict` for it (torchdata/stateful_dataloader/stateful_dataloader.py:507). A resumed run draws what the
interrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from verl.utils.dataset.rl_dataset import RLHFDataset

from agentfly.training.metrics.task_difficulty import TaskDifficulty
from agentfly.training.verl.messages import ChainReport


class CurriculumDataset(RLHFDataset):  # type: ignore[misc, unused-ignore]
    """The rows of a run's tasks. Those of a validation, for which verl takes the same class, are given as they stand.

    Args:
        data_files: of verl's rows; see `agentfly.training.recipe.verl_dataset`.
        config: node `data` of the configuration.
        **named: verl's further arguments.
    """

    def __init__(self, data_files: Any, config: DictConfig, **named: object) -> None:
        super().__init__(data_files=data_files, config=config, **named)
        self._difficulty: TaskDifficulty | None = None
        if data_files == config.train_files:
            self._places = {int(row["index"]): place for place, row in enumerate(self.dataframe["extra_info"])}
            # Written by `agentfly.training.recipe.compose`.
            self._difficulty = TaskDifficulty(
                self.dataframe["data_source"], **dict(config.curriculum), seed=config.seed
            )
            global _trained_on
            _trained_on = self

    def __getitem__(self, item: int) -> dict[str, Any]:
        """Return the sample of the task that is drawn next; in a validation, that of row `item`."""
        place = item if self._difficulty is None else self._difficulty.draw()
        sample: dict[str, Any] = super().__getitem__(place)
        return sample

    def observe(self, chains: Sequence[ChainReport], step: int) -> dict[str, float]:
        """Take in the chains of a step and return metrics; see `TaskDifficulty.observe`.

        Args:
            chains: those that are trained on, and those of groups that were replaced.
            step: its number.
        """
        assert self._difficulty is not None, "a validation is not observed"
        return self._difficulty.observe([(self._places[chain.row], chain.reward) for chain in chains], step)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the choice, for the checkpoint."""
        return {} if self._difficulty is None else self._difficulty.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint.

        Raises:
            TrainingError: it is of other tasks.
        """
        if self._difficulty is not None and state:
            self._difficulty.load_state_dict(state)


_trained_on: CurriculumDataset | None = None


def observe_chains(chains: Sequence[ChainReport], step: int) -> dict[str, float]:
    """Report the chains of a step to the data set of this process, and return its metrics; none without a curriculum.

    verl makes both the data set and the replay buffer, and gives neither the other.

    Args:
        chains, step: see `CurriculumDataset.observe`.
    """
    return {} if _trained_on is None else _trained_on.observe(chains, step)
