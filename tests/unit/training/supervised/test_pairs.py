"""Pairs for preference training have one prompt with its images, two turns as they were sampled, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

datasets = pytest.importorskip("datasets")
from agentfly.agents.token_check import TokenTrace  # noqa: E402
from agentfly.cli import app  # noqa: E402
from agentfly.errors import ConfigError  # noqa: E402
from agentfly.templates import ChatCodec  # noqa: E402
from agentfly.training.supervised.pairs import MARKER, PairExport, export_pairs  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture
async def log(play: Callable[..., Any], codec: ChatCodec) -> Any:
    """Four chains of one prompt, with scores of 0, 30, 60 and 90."""
    made = await play("darken", "blur", "brighten", "grayscale", codec=codec)
    for place, trajectory in enumerate(made.trajectories):
        trajectory.group_id, trajectory.score = "g", 30.0 * place
    made.write()
    return made


def exported(log: Any, policy: Path, **options: Any) -> list[dict[str, Any]]:
    out = log.path.parent / "pairs"
    export_pairs(PairExport(log.path.parent, out, str(policy), **options))
    return list(datasets.load_dataset("parquet", data_dir=str(out / "data"), split="train"))


def test_the_best_is_paired_with_the_worst(log: Any, small_policy: Path, codec: ChatCodec) -> None:
    [row] = exported(log, small_policy)
    best, worst = log.trajectories[3], log.trajectories[0]
    assert (row["score_chosen"], row["score_rejected"], row["turn"], row["step"]) == (90.0, 0.0, 0, None)
    # What TRL does with a row: the processor gets the prompt with its images, and the turns as text alone.
    inputs = codec.processor(images=row["images"], text=[row["prompt"]], add_special_tokens=False)
    assert list(inputs["input_ids"][0]) == best.tokens.prompt_ids
    for text, trajectory in ((row["chosen"], best), (row["rejected"], worst)):
        turn = trajectory.turns[0]
        ids = codec.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == trajectory.tokens.response_ids[turn.start : turn.end]
        assert text.endswith("<|im_end|>")
    assert "grayscale" in row["chosen"]
    assert "darken" in row["rejected"]


def test_several_pairs_of_a_prompt_go_from_the_outside_in(log: Any, small_policy: Path) -> None:
    rows = exported(log, small_policy, per_group=5)
    assert sorted((row["score_chosen"], row["score_rejected"]) for row in rows) == [(60.0, 30.0), (90.0, 0.0)]
    assert len(exported(log, small_policy, per_group=5, min_gap=50.0)) == 1


async def test_chains_that_begin_alike_are_paired_at_the_turn_in_which_they_part(
    play: Callable[..., Any], small_policy: Path, codec: ChatCodec
) -> None:
    """The second chain ends with a second edit where the first one answers."""
    log = await play("darken", "darken", codec=codec)
    good, bad = log.trajectories
    turn = bad.turns[1]
    other = codec.tokenizer("blur", add_special_tokens=False)["input_ids"] + [codec.end_id]
    ids = bad.tokens.response_ids[: turn.start] + other
    mask = bad.tokens.mask[: turn.start] + [1] * len(other)
    bad.tokens = TokenTrace(bad.tokens.prompt_ids, ids, mask, [0.0] * len(ids))
    bad.turns[1] = replace(turn, end=len(ids))
    good.group_id = bad.group_id = "g"
    good.score, bad.score = 80.0, 20.0
    log.write()
    [row] = exported(log, small_policy)
    assert (row["turn"], len(row["images"])) == (1, 2)
    assert (row["rejected"], row["chosen"].count("give_answer")) == ("blur<|im_end|>", 1)
    inputs = codec.processor(images=row["images"], text=[row["prompt"]], add_special_tokens=False)
    assert list(inputs["input_ids"][0]) == good.tokens.prompt_ids + good.tokens.response_ids[: good.turns[1].start]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda chain: setattr(chain, "score", None), "chains without a score, or stopped by a fault"),
        (lambda chain: setattr(chain, "tokens", None), "chains without token ids"),
        (lambda chain: setattr(chain, "score", 50.0), "1 groups without a pair that far apart"),
    ],
)
def test_chains_that_tell_no_preference_are_left_out_with_the_reason(
    log: Any, small_policy: Path, change: Callable[[Any], None], why: str
) -> None:
    for trajectory in log.trajectories:
        change(trajectory)
    log.write()
    with pytest.raises(ConfigError, match=f"no pair of .* is left: .*{why}"):
        exported(log, small_policy)
    assert {path.name for path in log.path.parent.iterdir()} == {"images", "trajectories.jsonl"}


async def test_the_same_turns_are_no_pair(play: Callable[..., Any], small_policy: Path, codec: ChatCodec) -> None:
    log = await play("darken", "darken", codec=codec)
    for trajectory in log.trajectories:
        trajectory.group_id = "g"
    log.write()
    with pytest.raises(ConfigError, match="1 whose turns are the same"):
        exported(log, small_policy)


def test_the_command_says_what_it_wrote_and_replaces_only_its_own(log: Any, small_policy: Path) -> None:
    out = log.path.parent / "pairs"
    words = ["data", "pairs", str(log.path), "--out", str(out), "--model", str(small_policy), "--per-group", "2"]
    for _ in range(2):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert f"wrote 2 pairs to {out}" in " ".join(done.output.split())
    assert json.loads((out / MARKER).read_text())["pairs"] == 2
    with pytest.raises(ConfigError, match="is there and is no folder of exported pairs"):
        export_pairs(PairExport(log.path, log.path.parent, str(small_policy)))
    with pytest.raises(ConfigError, match=r"there is no trajectories\.jsonl"):
        export_pairs(PairExport(out, log.path.parent / "new", str(small_policy)))
