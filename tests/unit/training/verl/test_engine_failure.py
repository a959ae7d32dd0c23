"""A rollout engine that died is reported by the worker that asked it, and ends the run before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

import transfer_queue
from ray.exceptions import ActorDiedError, RayTaskError

from agentfly.errors import TrainingError
from agentfly.templates import ChatCodec
from agentfly.training.recipe.verl_dataset import write_rows
from agentfly.training.verl import replay_buffer
from agentfly.training.verl.agent_loop import is_engine_death
from agentfly.training.verl.chain_faults import ChainFault
from agentfly.training.verl.messages import EngineFailure
from tests.unit.training.chains import good_edit, task_of
from tests.unit.training.verl.test_agent_loop import Server, common, loop
from tests.unit.training.verl.test_replay_buffer import required

pytestmark = pytest.mark.slow


class EngineDeadError(Exception):
    """Named as vLLM's."""


def of_a_remote_process(fault: Exception) -> Exception:
    found: Exception = RayTaskError("generate", "traceback", fault).as_instanceof_cause()
    return found


def test_a_dead_engine_and_a_dead_server_differ_from_a_refused_request() -> None:
    assert is_engine_death(of_a_remote_process(EngineDeadError("EngineCore encountered an issue.")))
    assert is_engine_death(ActorDiedError())
    assert not is_engine_death(of_a_remote_process(ValueError("the prompt is too long")))


class Dying(Server):
    """Answers once, and is dead then."""

    async def generate(self, **request: Any) -> Any:
        if self.requests:
            raise of_a_remote_process(EngineDeadError("EngineCore encountered an issue."))
        return await super().generate(**request)


async def test_a_chain_that_was_cut_short_by_it_is_not_trained_on_and_the_trainer_learns_of_it(
    policy_codec: ChatCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: list[dict[str, Any]] = []

    async def kv_put(**named: Any) -> None:
        put.append(named)

    monkeypatch.setattr(transfer_queue, "async_kv_put", kv_put)
    task = task_of()
    write_rows([task], tmp_path, "t")
    row = {"index": 0, "task_file": str(tmp_path / "t.tasks.parquet")}
    server = Dying(policy_codec, [good_edit(task)])
    with pytest.raises(ChainFault, match=r"chain step-3-row-0-1 is not trained on: the rollout engine is gone"):
        await loop(common(policy_codec, tmp_path), server).run(
            {}, extra_info=row, uid="u", session_id=1, global_steps=3
        )
    [record] = put
    failure = EngineFailure.find({record["partition_id"]: {record["key"]: record["tag"]}})
    assert failure is not None
    assert "EngineDeadError" in failure.fault


def test_the_trainer_ends_when_it_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: dict[str, Any] = {"train": {"a": {"is_prompt": True, "status": "failure", "global_steps": 1}}}
    monkeypatch.setattr(transfer_queue, "kv_list", lambda: queue)
    buffer = replay_buffer.WatchfulReplayBuffer(**required())
    buffer._sync_metadata_from_transfer_queue()
    queue[EngineFailure.PARTITION] = {"engine": {}}
    buffer._sync_metadata_from_transfer_queue()
    queue[EngineFailure.PARTITION] = {"engine": {"fault": "EngineDeadError: EngineCore encountered an issue."}}
    with pytest.raises(TrainingError, match="a rollout engine died: EngineDeadError"):
        buffer._sync_metadata_from_transfer_queue()
