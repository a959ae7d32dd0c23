"""Faults are found before anything starts, and a run takes the tasks that its settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml

from agentfly import model_source
from agentfly.datasets import StickerWorld
from agentfly.errors import ConfigError
from agentfly.training.launch.checkpoints import newest_checkpoint
from agentfly.training.launch.launcher import Launch
from agentfly.training.launch.prepare import prepare
from agentfly.training.launch.resume import only_run
from agentfly.training.recipe.compose import compose
from agentfly.training.recipe.readiness import require_servers
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.recipe.verl_dataset import read_task, write_rows
from tests.unit.serving.image_server.running import running

pytest.importorskip("verl")

pytestmark = pytest.mark.slow

RECIPE = """
defaults:
  - agentfly
  - _self_
  - device: cpu

agentfly:
  model: somebody/tiny
  data: {train: stickers, limit: 4}

data: {train_batch_size: 2, max_prompt_length: 64, max_response_length: 192}
actor_rollout_ref: {rollout: {n: 2}}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(model_source, "hub_answers", lambda: True)
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def prepared(recipe: Path, *overrides: str) -> Launch:
    return prepare(compose(recipe, [f"agentfly.out={recipe.parent / 'run'}", *overrides]))


def rows_of(recipe: Path, name: str) -> list[dict[str, Any]]:
    table = pyarrow.parquet.read_table(recipe.parent / "run" / "data" / f"{name}.parquet")
    return list(table.to_pylist())


def test_a_converted_file_is_used_as_it_is_only_if_all_of_it_is_wanted(recipe: Path) -> None:
    converted = write_rows([StickerWorld().task(n, "train") for n in range(20)], recipe.parent / "mine", "train")
    prepared(recipe, f"agentfly.data={{train: {converted}, limit: null}}")
    assert not (recipe.parent / "run" / "data" / "train.parquet").exists()
    # verl insists on validation tasks, so a few of the training tasks are taken.
    assert len(rows_of(recipe, "validation")) == 8
    prepared(recipe, f"agentfly.data={{train: {converted}, limit: 3, validation: {converted}, validation_limit: 2}}")
    assert [len(rows_of(recipe, name)) for name in ("train", "validation")] == [3, 2]


def test_a_recipe_names_the_columns_of_a_file(recipe: Path) -> None:
    write_rows([StickerWorld().task(0, "train")], recipe.parent / "one", "train")
    (recipe.parent / "mine.jsonl").write_text('{"prompt": "Remove it.", "image": "a.png"}\n' * 2)
    from PIL import Image

    Image.new("RGB", (56, 56)).save(recipe.parent / "a.png")
    source = f"train: {recipe.parent / 'mine.jsonl'}"
    prepared(recipe, f"agentfly.data={{{source}, options: {{columns: {{instruction: prompt}}}}}}")
    assert [row["prompt"][0]["content"] for row in rows_of(recipe, "train")] == ["Remove it."] * 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("agentfly.data.limit=1", "agentfly.data.train has 1 tasks, and a step takes data.train_batch_size=2"),
        ("agentfly.model=./policies/wram", r"agentfly\.model=\./policies/wram: there is no such folder"),
    ],
)
def test_what_cannot_run_is_told_before_it_starts(recipe: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepared(recipe, override)


def test_a_checkpoint_is_read_by_as_many_accelerators_as_wrote_it(recipe: Path) -> None:
    """Somebody whose cluster has lost a machine goes on with the rest of it: verl would miss a file, minutes later."""
    prepared(recipe)
    checkpoints = recipe.parent / "run" / "checkpoints"
    weights = checkpoints / "global_step_3" / "actor" / "model_world_size_2_rank_0.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("3")
    with pytest.raises(ConfigError, match=r"global_step_3 was written by 2 accelerators, .* not with 1: set"):
        prepared(recipe)
    prepared(recipe, "trainer.n_gpus_per_node=2")
    prepared(recipe, "trainer.resume_mode=disable")


def test_checkpoints_of_another_run_are_not_gone_on_from(recipe: Path) -> None:
    out = recipe.parent / "run"
    prepared(recipe)
    prepared(recipe, "agentfly.model=somebody/other")  # nothing was trained yet
    (out / "checkpoints" / "global_step_3").mkdir(parents=True)
    (out / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("3")
    prepared(recipe, "agentfly.model=somebody/other", "trainer.total_training_steps=9")
    before = (out / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"holds a run with agentfly\.model=somebody/other, not somebody/tiny: give"):
        prepared(recipe)
    with pytest.raises(ConfigError, match=r"holds a run with agentfly\.data\.limit=4, not 3: give"):
        prepared(recipe, "agentfly.model=somebody/other", "agentfly.data.limit=3")
    with pytest.raises(ConfigError, match=r"trainer_mode=sync, not colocate_async: give another agentfly\.out"):
        prepared(recipe, "agentfly.model=somebody/other", "trainer.v1.trainer_mode=colocate_async")
    assert (out / "config.yaml").read_text() == before
    # A run that starts afresh disables them for good, even if it ends before its first checkpoint.
    prepared(recipe, "trainer.resume_mode=disable")
    assert newest_checkpoint(out / "checkpoints") is None
    assert (out / "checkpoints" / "global_step_3").is_dir()


def test_a_run_of_before_an_update_goes_on(recipe: Path) -> None:
    out = recipe.parent / "run"
    prepared(recipe)
    (out / "checkpoints" / "global_step_3").mkdir(parents=True)
    (out / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("3")
    config = yaml.safe_load((out / "config.yaml").read_text())
    del config["agentfly"]["data"]["options"]  # a key that earlier versions lack
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    assert prepared(recipe).resume
    assert newest_checkpoint(out / "checkpoints") == out / "checkpoints" / "global_step_3"
    assert yaml.safe_load((out / "config.yaml").read_text())["agentfly"]["data"]["options"] == {}


def test_rows_may_be_some_of_a_converted_file(recipe: Path) -> None:
    converted = write_rows([StickerWorld().task(n, "train") for n in range(6)], recipe.parent / "mine", "train")
    part = recipe.parent / "part.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(converted).slice(3, 3), part)
    prepared(recipe, f"agentfly.data={{train: {part}, limit: null}}")
    ids = [read_task(row["extra_info"]).id for row in rows_of(recipe, "validation")]
    assert ids == [StickerWorld().task(n, "train").id for n in (3, 4, 5)]


def test_the_template_is_kept_with_the_run(recipe: Path) -> None:
    (recipe.parent / "mine.jinja").write_text("{{ messages }}")
    prepared(recipe, f"agentfly.template={recipe.parent / 'mine.jinja'}")
    assert (recipe.parent / "run" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_two_runs_do_not_share_a_folder(recipe: Path) -> None:
    out = recipe.parent / "run"
    with only_run(out), pytest.raises(ConfigError, match=r"another process writes to agentfly\.out="):
        prepared(recipe)
    prepared(recipe)


def settings(*nodes: str) -> TrainSettings:
    return TrainSettings(model="m", out=Path("runs/one"), data={"train": "stickers"}, client_nodes=nodes)


def test_a_run_needs_one_of_its_image_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(model_type="classical", worker_slots=1) as server:
        node = server.url.removeprefix("http://")
        assert require_servers(settings(node, f"http://{node}")) == {}
        assert require_servers(settings("127.0.0.1:9", node)).keys() == {"http://127.0.0.1:9"}
        require_servers(settings("127.0.0.1:9", node))
    require_servers(settings())
    with pytest.raises(ConfigError, match=r"no image server .*9: cannot connect.* agentfly\.client_nodes=\[\]"):
        require_servers(settings("127.0.0.1:9"))
    # The processes of a cluster may reach servers that this machine does not.
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    require_servers(settings("127.0.0.1:9"))
