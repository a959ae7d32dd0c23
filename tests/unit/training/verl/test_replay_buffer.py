"""verl builds our replay buffer from its configuration; it polls fast, and checks and observes each batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
import transfer_queue  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from tensordict import NonTensorData, TensorDict  # noqa: E402
from verl.trainer.ppo.core_algos import get_adv_estimator_fn  # noqa: E402
from verl.trainer.ppo.v1 import trainer_base  # noqa: E402
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync  # noqa: E402
from verl.utils.import_utils import load_extern_object  # noqa: E402

from agentfly.errors import ConfigError, TrainingError  # noqa: E402
from agentfly.training.launch.log_reader import notice_in  # noqa: E402
from agentfly.training.metrics.chain_report import Interval  # noqa: E402
from agentfly.training.metrics.health import ChainFacts  # noqa: E402
from agentfly.training.verl import curriculum  # noqa: E402
from agentfly.training.verl.loop_worker import AgentFlyLoopManager, drop_leftovers  # noqa: E402
from agentfly.training.verl.messages import ChainReport, EngineFailure, LostChain  # noqa: E402
from agentfly.training.verl.parity import digest  # noqa: E402
from agentfly.training.verl.replay_buffer import POLL_SECONDS, WatchfulReplayBuffer, WatchfulReplayBufferAsync  # noqa: E402
from tests.unit.training.reward_server import SAMPLES, RewardServer, reward_server  # noqa: E402

pytestmark = pytest.mark.slow

NODE = {"model": "m", "out": "o", "data": {"train": "stickers"}}


def required(**node: Any) -> dict[str, Any]:
    """Return the arguments of verl/trainer/ppo/v1/trainer_base.py:_build_replay_buffer, from config/agentfly.yaml."""
    return {
        "trainer_mode": "sync",
        "trainer_config": {},
        "max_off_policy_threshold": 8,
        "max_off_policy_strategy": "drop",
        "sampler_kwargs": OmegaConf.create({"agentfly": {**NODE, **node}}),
        "refill_fn": None,
    }


def test_polls_fast_unless_set_otherwise() -> None:
    buffer_class = load_extern_object("pkg://agentfly.training.verl.replay_buffer", "WatchfulReplayBuffer")
    assert buffer_class(**required()).poll_interval == POLL_SECONDS
    assert buffer_class(**required(), poll_interval=1.0).poll_interval == 1.0


def test_each_trainer_has_its_buffer() -> None:
    assert issubclass(WatchfulReplayBuffer, ReplayBuffer)
    assert issubclass(WatchfulReplayBufferAsync, ReplayBufferAsync)
    with pytest.raises(ConfigError, match="Did you mean 'tool_calls'"):
        WatchfulReplayBufferAsync(**required(health={"tool_call": None}))


def test_the_trainers_process_knows_our_estimator() -> None:
    assert get_adv_estimator_fn("turn_grpo").__module__ == "agentfly.training.verl.turn_grpo"


IDS, MASK = [5, 6, 7, 8], [1, 0]
NO_PAUSE = {"lost_chains": {"pause": 0}}


def extra_fields(
    answered: bool = True, reward: float = 0.5, row: int = 0, chain: str = "step-1-row-0-0"
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    ChainReport(
        id=chain,
        group=f"step-1-row-{row}",
        reward=reward,
        parts={"edit": reward},
        audit=None,
        facts=ChainFacts(calls=1, malformed=0, edits=1, no_op_edits=0, longest_repeat=1, answered=answered),
        intervals=[Interval("", 10.0, 11.0), Interval("edit", 11.0, 13.0)],
        stop="answered" if answered else "max_turns",
        digest=digest(IDS, MASK),
        row=row,
    ).add_to(fields)
    return fields


class Queue:
    """verl's queue in this process: tags by partition and key, and the fields of chains."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, dict[str, Any]]] = {}
        self.fields: dict[str, dict[str, Any]] = {}
        self.refilled: list[int] = []

    def group(self, uid: str, rewards: Sequence[float], row: int = 0) -> None:
        """Put a prompt all of whose chains have answered, with these rewards."""
        self.prompt(uid, [True] * len(rewards))
        for number, reward in enumerate(rewards):
            self.fields[f"{uid}_{number}_0"]["extra_fields"] = NonTensorData(extra_fields(reward=reward, row=row))

    def prompt(self, uid: str, kept: Sequence[bool], lost: Sequence[LostChain] = (), partition: str = "train") -> None:
        """Put a prompt of which chains are left (whether each has answered) and chains are lost."""
        status = "failure" if lost else "finished"
        tags = self.tags.setdefault(partition, {})
        tags[uid] = {"is_prompt": True, "status": status, "global_steps": 1}
        for number, answered in enumerate(kept):
            key = f"{uid}_{number}_0"
            tags[key] = {"status": "success"}
            self.fields[key] = {
                "extra_fields": NonTensorData(extra_fields(answered)),
                "input_ids": torch.tensor(IDS),
                "response_mask": torch.tensor(MASK),
            }
        for number, chain in enumerate(lost):
            self.tags.setdefault(LostChain.PARTITION, {})[f"{uid}_{len(kept) + number}"] = asdict(chain)

    def kv_list(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {partition: dict(tags) for partition, tags in self.tags.items()}

    def kv_clear(self, keys: Sequence[str], partition_id: str) -> None:
        for key in keys:
            self.tags[partition_id].pop(key)

    def kv_batch_get(self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]) -> dict[str, Any]:
        return {name: [self.fields[key].get(name) for key in keys] for name in select_fields}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    made = Queue()
    for name in ("kv_list", "kv_clear", "kv_batch_get"):
        monkeypatch.setattr(transfer_queue, name, getattr(made, name))
    return made


def buffer(queue: Queue, again: Callable[[int], None] | None = None, **node: Any) -> WatchfulReplayBuffer:
    def refilled(prompts: int) -> None:
        queue.refilled.append(prompts)
        if again is not None:
            again(prompts)

    return WatchfulReplayBuffer(**{**required(**{**NO_PAUSE, **node}), "refill_fn": refilled})


def test_a_batch_is_in_the_order_of_its_chains(queue: Queue) -> None:
    """Equal seeds give equal mini-batches, whichever chain has finished first, and whatever uids verl has drawn."""
    for uid, row in (("b", 0), ("a", 1)):
        queue.prompt(uid, [True, True])
        for number in (0, 1):
            key, name = f"{uid}_{number}_0", f"step-1-row-{row}-{1 - number}"
            queue.fields[key]["extra_fields"] = NonTensorData(extra_fields(chain=name))
            queue.tags["train"][key]["name"] = name
    batch, _ = buffer(queue).sample(1, "train", 2)
    assert batch.keys == ["b_1_0", "b_0_0", "a_1_0", "a_0_0"]
    assert [tag["name"] for tag in batch.tags] == [f"step-1-row-{row}-{number}" for row in (0, 1) for number in (0, 1)]


def lost(uid: str, *, answered: bool = True, validate: bool = False) -> LostChain:
    return LostChain(uid, "not_scored", "the judge refuses the connection", answered, validate)


def test_a_batch_comes_with_the_metrics_of_its_chains(queue: Queue) -> None:
    queue.prompt("a", [True, True])
    batch, metrics = buffer(queue).sample(1, "train", 1)
    assert batch.keys == ["a_0_0", "a_1_0"]
    assert metrics["reward/mean"] == 0.5
    assert metrics["reward/group/zero_variance"] == 1.0
    assert (metrics["chains/lost"], metrics["chains/sampled_again"]) == (0, 0)


def test_a_report_that_is_not_there_in_full_is_waited_for(queue: Queue) -> None:
    queue.prompt("a", [True])
    queue.tags[LostChain.PARTITION] = {"b_0": {}}  # verl's queue lists a key a moment before its tag
    assert buffer(queue).sample(1, "train", 1)[1]["chains/lost"] == 0


def test_a_few_lost_chains_are_counted_by_reason(queue: Queue) -> None:
    queue.prompt("a", [True] * 19, [lost("a")])
    _, metrics = buffer(queue).sample(1, "train", 1)
    assert (metrics["chains/lost"], metrics["chains/lost/not_scored"]) == (1, 1)
    assert metrics["chains/lost_share"] == pytest.approx(0.05)
    assert not queue.tags[LostChain.PARTITION]  # the next step begins at nothing


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        ([False] * 26, r"38 of 64 chains were lost: 38 not scored \(the judge refuses the connection\)"),
        ([], r"38 of 38 chains were lost"),
    ],
)
def test_a_step_of_what_a_dead_judge_left_is_sampled_again_and_then_ends_the_run(
    queue: Queue, capsys: pytest.CaptureFixture[str], kept: list[bool], why: str
) -> None:
    def again(prompts: int) -> None:
        assert set(queue.tags["train"]) == set(), "the batch that was refused is still there"
        queue.prompt("b", kept, [lost("b")] * 38)

    queue.prompt("a", kept, [lost("a")] * 38)
    with pytest.raises(TrainingError, match=f"step 1 was sampled 2 times and never fit to be trained on: {why}"):
        buffer(queue, again).sample(1, "train", 1)
    assert queue.refilled == [1]
    [notice] = [text for line in capsys.readouterr().err.splitlines() if (text := notice_in(line))]
    assert "step 1 is sampled again in 0 s and not trained on" in notice


def test_a_step_that_is_whole_the_second_time_is_trained_on(queue: Queue) -> None:
    queue.prompt("a", [False], [lost("a")])
    batch, metrics = buffer(queue, lambda _: queue.prompt("b", [True, True])).sample(1, "train", 1)
    assert batch.keys == ["b_0_0", "b_1_0"]
    assert (metrics["chains/lost"], metrics["chains/sampled_again"]) == (1, 1)


def test_a_prompt_must_not_lose_all_that_answered(queue: Queue) -> None:
    queue.prompt("a", [True] * 40)
    queue.prompt("b", [False, False], [lost("b"), lost("b")])
    with pytest.raises(TrainingError, match="a prompt lost all of its answered chains: 2 not scored"):
        buffer(queue, lost_chains={"attempts": 1}).sample(1, "train", 2)
    queue.prompt("a", [True] * 40)
    queue.prompt("b", [True, False], [lost("b"), lost("b")])
    assert buffer(queue, lost_chains={"attempts": 1}).sample(1, "train", 2)[1]["chains/lost"] == 2


def test_an_asynchronous_trainer_does_not_put_new_prompts_in_the_place_of_lost_ones_for_ever(queue: Queue) -> None:
    uids = iter("bcdefghij")

    def again(prompts: int) -> None:
        for _ in range(prompts):
            uid = next(uids)
            queue.prompt(uid, [False], [lost(uid)])

    queue.prompt("a", [False], [lost("a")])
    made = WatchfulReplayBufferAsync(**{**required(**NO_PAUSE), "refill_fn": again})
    with pytest.raises(TrainingError, match="3 prompts lost chains before 1 had all of theirs: 3 not scored"):
        made.sample(1, "train", 1)


def test_an_asynchronous_trainer_keeps_a_step_whose_lost_prompt_is_replaced(queue: Queue) -> None:
    """What is whole has cost tool time: it is not thrown away for a prompt that is no part of it."""
    queue.prompt("a", [True, False], [lost("a")])
    queue.prompt("b", [True] * 19)
    made = WatchfulReplayBufferAsync(**{**required(**NO_PAUSE), "refill_fn": lambda _: queue.prompt("c", [True])})
    batch, metrics = made.sample(1, "train", 2)
    assert {key[0] for key in batch.keys} == {"b", "c"}
    assert (metrics["chains/lost"], metrics["chains/sampled_again"]) == (1, 0)


def test_a_resumed_run_does_not_end_because_of_an_engine_that_died_in_an_earlier_one(queue: Queue) -> None:
    queue.prompt("a", [True, True])  # finished and not yet trained on when the checkpoint was written
    queue.tags["train"]["b_0_0"] = {"status": "success"}  # of the step that the checkpoint is of
    queue.tags["train"]["c"] = {"is_prompt": True, "status": "running", "global_steps": 1}
    queue.tags[EngineFailure.PARTITION] = {"engine": {"fault": "EngineDeadError"}}
    made = WatchfulReplayBufferAsync(**{**required(**NO_PAUSE), "refill_fn": None})
    with pytest.raises(TrainingError, match="a rollout engine died: EngineDeadError"):
        made.sample(2, "train", 1)
    drop_leftovers()
    assert set(queue.tags["train"]) == {"a", "a_0_0", "a_1_0", "c"}
    assert made.sample(2, "train", 1)[0].keys == ["a_0_0", "a_1_0"]


def test_verl_can_leave_out_the_engines_beside_its_trainer() -> None:
    """Its message about them would end the run: it has a keyword that `logging` does not know."""
    from verl.trainer.ppo.v1 import trainer_separate_async

    trainer_separate_async.logger.info("hybrid replicas disabled", flush=True)


def test_a_validation_says_what_it_is_without_and_the_next_step_counts_it(
    queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    queue.prompt("v", [True], [lost("v", validate=True)], partition="val")
    made = buffer(queue)
    batch, _ = made.sample(1, "val", 1)
    assert batch.keys == ["v_0_0"]
    notices = [text for line in capsys.readouterr().err.splitlines() if (text := notice_in(line))]
    assert notices == ["the validation of step 1 is without 1 chains: 1 not scored (the judge refuses the connection)"]
    queue.prompt("a", [True, True])
    metrics = made.sample(2, "train", 1)[1]
    assert metrics["validation/chains/lost_share"] == 0.5
    assert metrics["chains/lost"] == 0
    # Only the step after it: later ones had no validation before them.
    queue.prompt("b", [True, True])
    queue.tags["train"] = {key: tag for key, tag in queue.tags["train"].items() if key.startswith("b")}
    assert "validation/chains/lost_share" not in made.sample(3, "train", 1)[1]


def test_a_validation_of_nothing_ends_the_run(queue: Queue) -> None:
    queue.prompt("v", [], [lost("v", validate=True)], partition="val")
    with pytest.raises(TrainingError, match="no chain of the validation is left: 1 not scored"):
        buffer(queue).sample(1, "val", 1)


@pytest.mark.parametrize(("field", "value"), [("input_ids", [5, 6, 9, 8]), ("response_mask", [1, 1])])
def test_other_ids_than_those_sampled_end_the_run(queue: Queue, field: str, value: list[int]) -> None:
    queue.prompt("a", [True, True])
    queue.fields["a_1_0"][field] = torch.tensor(value)
    with pytest.raises(TrainingError, match=r"chain step-1-row-0-0: the trainer has ids \w{16}, the rollout sampled"):
        buffer(queue).sample(1, "train", 1)


def test_a_warning_of_the_health_monitor_is_a_notice(queue: Queue, capsys: pytest.CaptureFixture[str]) -> None:
    queue.prompt("a", [True, True])
    buffer(queue, health={"tool_calls": {"low": 2, "patience": 1}}).sample(1, "train", 1)
    notices = [text for line in capsys.readouterr().err.splitlines() if (text := notice_in(line))]
    assert len(notices) == 1
    assert notices[0].startswith("step 1: tool_calls is 1, below 2")


def test_groups_of_equal_rewards_are_replaced_one_for_one(queue: Queue) -> None:
    for uid, rewards in (("a", [0.95, 0.95]), ("b", [0.2, 0.6]), ("c", [0.0, 0.0])):
        queue.group(uid, rewards, row=ord(uid))
    # The first of those in their place is no better.
    after = iter([("d", [0.5, 0.5]), ("e", [0.1, 0.2]), ("f", [0.3, 0.4])])

    def again(prompts: int) -> None:
        for _ in range(prompts):
            uid, rewards = next(after)
            queue.group(uid, rewards, row=ord(uid))

    batch, metrics = buffer(queue, again, refill=True).sample(1, "train", 3)
    assert {key[0] for key in batch.keys} == set("bef")
    assert queue.refilled == [2, 1]
    assert (metrics["refill/total_groups"], metrics["refill/share"]) == (3, 0.5)
    assert metrics["refill/all_best"] == metrics["refill/all_worst"] == pytest.approx(1 / 3)
    assert metrics["training/filter_groups/evicted_samples"] == 3
    assert metrics["reward/group/zero_variance"] == 0
    # Of two seconds in each of twelve chains, half was spent for nothing.
    assert (metrics["tools/total_seconds"], metrics["tools/total_discarded_seconds"], metrics["tools/total_calls"]) == (
        12,
        12,
        12,
    )
    assert not [key for key in queue.tags["train"] if key[0] in "acd"], "a group that was replaced is still there"


def test_groups_are_as_they_are_without_the_setting(queue: Queue) -> None:
    queue.group("a", [0.5, 0.5])
    _, metrics = buffer(queue).sample(1, "train", 1)
    assert queue.refilled == []
    assert "refill/total_groups" not in metrics
    assert (metrics["tools/total_seconds"], metrics["tools/total_discarded_seconds"]) == (4, 0)


def test_a_policy_that_has_nothing_more_to_learn_does_not_sample_for_ever(queue: Queue) -> None:
    uids = iter("cdefghij")

    def again(prompts: int) -> None:
        for _ in range(prompts):
            queue.group(next(uids), [1.0, 1.0])

    for uid in "ab":
        queue.group(uid, [1.0, 1.0])
    made = buffer(queue, again, refill={"most": 1.5})
    batch, metrics = made.sample(1, "train", 2)
    assert (len(batch.keys), metrics["refill/total_groups"], queue.refilled) == (4, 3, [2, 1])
    queue.tags["train"].clear()
    for uid in "gh":
        queue.group(uid, [1.0, 1.0])
    # The limit is that of a step.
    assert made.sample(2, "train", 2)[1]["refill/total_groups"] == 3


def test_nearly_equal_rewards_count_as_equal_where_the_recipe_says_so(queue: Queue) -> None:
    queue.group("a", [0.98, 0.97])
    batch, _ = buffer(queue, lambda _: queue.group("b", [0.2, 0.9]), refill={"spread": 0.02}).sample(1, "train", 1)
    assert batch.keys == ["b_0_0", "b_1_0"]


def test_an_asynchronous_trainer_replaces_groups_too(queue: Queue) -> None:
    queue.group("a", [0.5, 0.5])
    queue.group("b", [0.2, 0.6])
    given = {**required(refill=True), "refill_fn": lambda prompts: queue.group("c", [0.1] + [0.4] * prompts)}
    batch, metrics = WatchfulReplayBufferAsync(**given).sample(1, "train", 2)
    assert {key[0] for key in batch.keys} == set("bc")
    assert (metrics["refill/total_groups"], metrics["tools/total_discarded_seconds"]) == (1, 4)


def test_the_curriculum_learns_of_replaced_groups_too(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    class Tasks:
        def observe(self, chains: Sequence[ChainReport], step: int) -> dict[str, float]:
            seen.extend((chain.row, chain.reward) for chain in chains)
            return {"curriculum/seen": 0.5}

    monkeypatch.setattr(curriculum, "_trained_on", Tasks())
    queue.group("a", [0.0, 0.0], row=7)
    _, metrics = buffer(queue, lambda _: queue.group("b", [0.2, 0.6], row=8), refill=True).sample(3, "train", 1)
    assert metrics["curriculum/seen"] == 0.5
    assert sorted(seen) == [(7, 0.0), (7, 0.0), (8, 0.2), (8, 0.6)]


class Chains:
    """Stands for the workers: a prompt's chains are scored by the server when the prompt is handed out."""

    def __init__(self, queue: Queue, server: RewardServer) -> None:
        self.queue, self.server, self.uids = queue, server, iter("abcdef")
        self.scores: list[float] = []
        self.generate_sequences = SimpleNamespace(remote=self.run)

    def run(self, prompts: TensorDict) -> None:
        validate = bool(prompts["validate"].any())
        score = asyncio.run(self.server.client().evaluate(SAMPLES[1]))
        self.scores.append(score.value)
        uid = next(self.uids)
        self.queue.prompt(uid, [True, True], partition="val" if validate else "train")


def test_evaluators_are_awake_while_chains_run_and_asleep_while_the_trainer_updates(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls of verl's synchronous trainer: a validation, two steps, and what it does between them."""
    monkeypatch.setattr("ray.get", lambda answers: answers)
    monkeypatch.setattr(trainer_base, "Tracking", trainer_base.Tracking)  # and puts it back
    asleep: list[bool] = []

    with reward_server() as server:
        node: dict[str, Any] = {"evaluator": server.spec, "evaluator_sleep": True}

        def look() -> None:
            asleep.append(httpx.get(f"{server.base_url}/health").json()["asleep"])

        def handed_out(validate: bool) -> TensorDict:
            return TensorDict({"validate": torch.tensor([validate])}, [1])

        made = buffer(queue, **node)
        look()  # the engines are made now
        config = {"actor_rollout_ref": {"rollout": {}, "model": {}}, "agentfly": {**NODE, **NO_PAUSE, **node}}
        manager = AgentFlyLoopManager(OmegaConf.create(config), None)
        chains = Chains(queue, server)
        manager.agent_loop_workers = [chains]
        manager.generate_sequences(handed_out(True))
        made.sample(0, "val", 1)
        look()  # no update comes before the next rollout
        for step in (1, 2):
            manager.generate_sequences(handed_out(False))
            metrics = made.sample(step, "train", 1)[1]
            look()  # the update
            assert {"timing_s/evaluator_wake", "timing_s/evaluator_sleep"} <= set(metrics)
            queue.tags["train"].clear()
        assert server.paths == ["sleep", "wake", "evaluate", *["wake", "evaluate", "sleep"] * 2]
        assert asleep == [True, False, True, True]
        assert len(set(chains.scores)) == 1


def test_a_step_that_is_sampled_again_is_scored_too(queue: Queue) -> None:
    with reward_server() as server:

        def again(prompts: int) -> None:
            assert "sleep" not in server.paths[1:]
            queue.prompt("b", [True, True])

        queue.prompt("a", [False], [lost("a")])
        buffer(queue, again, evaluator=server.spec, evaluator_sleep=True).sample(1, "train", 1)
        assert server.paths == ["sleep", "sleep"]  # when it is made, and once the batch is whole


def test_a_server_that_does_not_wake_ends_the_step_before_prompts_are_handed_out(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_base, "Tracking", trainer_base.Tracking)
    with reward_server() as server:
        guard = {"attempts": 2, "first_wait": 0}
        node = {**NODE, "evaluator": server.spec, "evaluator_sleep": True, "guard": guard}
        config = OmegaConf.create({"actor_rollout_ref": {"rollout": {}, "model": {}}, "agentfly": node})
        manager = AgentFlyLoopManager(config, None)
        manager.agent_loop_workers = [chains := Chains(queue, server)]
        server.refusals["/v1/wake"] = 503
        with pytest.raises(TrainingError, match=f"did not wake: the evaluator at {server.base_url}: HTTP 503: refused"):
            manager.generate_sequences(TensorDict({"validate": torch.tensor([False])}, [1]))
        assert (server.paths, chains.scores) == (["wake", "wake"], [])
