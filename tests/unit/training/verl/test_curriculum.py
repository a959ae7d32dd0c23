"""verl makes our data set, its loader draws through it, and its checkpoint brings the choice back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
from omegaconf import OmegaConf  # noqa: E402
from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-untyped]  # noqa: E402
from verl.trainer.ppo.utils import create_rl_dataset, create_rl_sampler  # noqa: E402
from verl.utils.dataset.rl_dataset import collate_fn  # noqa: E402

from agentfly.datasets import StickerWorld  # noqa: E402
from agentfly.training.metrics.health import ChainFacts  # noqa: E402
from agentfly.training.recipe.compose import CONFIG_DIR, compose  # noqa: E402
from agentfly.training.recipe.verl_dataset import write_rows  # noqa: E402
from agentfly.training.verl import curriculum  # noqa: E402
from agentfly.training.verl.messages import ChainReport  # noqa: E402

pytestmark = pytest.mark.slow

TASKS = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, stickers = tmp_path_factory.mktemp("tasks"), StickerWorld()
    for name, count in (("train", TASKS), ("validation", 3)):
        tasks = (stickers.task(n, "train", ("named", "look")[n % 2]) for n in range(count))
        write_rows(tasks, folder, name, images="paths")
    return folder


@pytest.fixture
def data(files: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the node `data` of a run with a curriculum, as verl gets it."""
    monkeypatch.setattr(curriculum, "_trained_on", None)
    values = (f"data.train_files={files}/train.parquet", f"data.val_files={files}/validation.parquet")
    given = (
        "agentfly.model=m",
        "agentfly.out=o",
        "agentfly.data.train=stickers",
        "agentfly.curriculum={candidates: 3}",
    )
    config = compose(CONFIG_DIR / "stickers.yaml", [*values, *given])
    OmegaConf.update(config, "data.cache_dir", str(files / "cache"), force_add=True)
    return config.data


def loader_of(data: Any) -> Any:
    """Return the loader as verl makes it (verl/trainer/ppo/v1/trainer_base.py:743), for one row a batch."""
    rows = create_rl_dataset(data.train_files, data, None, None, is_train=True)
    workers, sampler = data.dataloader_num_workers, create_rl_sampler(data, rows)
    return StatefulDataLoader(
        dataset=rows, batch_size=1, num_workers=workers, drop_last=True, collate_fn=collate_fn, sampler=sampler
    )


class Run:
    """Draws rows as verl's trainer does, over the ends of epochs."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.rows: Iterator[Any] | None = None

    def draw(self) -> int:
        try:
            self.rows = self.rows or iter(self.loader)
            batch = next(self.rows)
        except StopIteration:
            self.rows = iter(self.loader)
            batch = next(self.rows)
        return int(batch["extra_info"][0]["index"])

    def step(self, number: int) -> list[int]:
        rows = [self.draw() for _ in range(5)]
        metrics = curriculum.observe_chains([report(row, (row * number % 7) / 6) for row in rows], number)
        assert 0.0 < metrics["curriculum/seen"] <= 1.0
        return rows


def report(row: int, reward: float) -> ChainReport:
    facts = ChainFacts(calls=0, malformed=0, edits=0, no_op_edits=0, longest_repeat=0, answered=True)
    return ChainReport("c", "g", reward, {}, None, facts, [], "answered", "0", row)


def test_a_checkpoint_of_verl_brings_the_choice_back(data: Any, tmp_path: Path) -> None:
    run = Run(loader_of(data))
    for number in range(1, 5):
        run.step(number)
    torch.save(run.loader.state_dict(), tmp_path / "data.pt")  # trainer_base.py:999
    expected = [run.step(number) for number in range(5, 10)]
    resumed = Run(loader_of(data))
    resumed.loader.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))  # trainer_base.py:895
    assert [resumed.step(number) for number in range(5, 10)] == expected


def test_a_validation_has_its_rows_as_they_stand(data: Any) -> None:
    loader_of(data)
    rows = create_rl_dataset(data.val_files, data, None, None, is_train=False)
    assert [rows[n]["extra_info"]["index"] for n in range(len(rows))] == [0, 1, 2]
    assert curriculum._trained_on is not rows


def test_without_a_curriculum_nothing_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "_trained_on", None)
    assert curriculum.observe_chains([], 1) == {}
