"""The worker of the agent loops and the process that scores: their messages, and the log of the chains."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from agentfly.agents import RolloutLimits
from agentfly.datasets import EditTask
from agentfly.errors import EvaluatorError, TrainingError
from agentfly.evaluators import EditSample, NotScored, Score
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec
from agentfly.training.launch.log_reader import notice_in
from agentfly.training.metrics.chain_report import turn_results
from agentfly.training.recipe.settings import AuditNode, DataSettings, TrainSettings
from agentfly.training.recipe.verl_dataset import TaskRow, write_rows

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
import transfer_queue  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.trainer.ppo.v1 import trainer_base  # noqa: E402

from agentfly.training.verl import loop_worker  # noqa: E402
from agentfly.training.verl.agent_loop import ChainOutput, LoopContext, output_of  # noqa: E402
from agentfly.training.verl.chain_faults import ChainFault  # noqa: E402
from agentfly.training.verl.loop_worker import AgentFlyLoopWorker, record_of, recorder_of  # noqa: E402
from agentfly.training.verl.messages import (  # noqa: E402
    VALIDATE,
    ChainReport,
    ChainRequest,
    ChainToScore,
    FinishedChain,
    LostChain,
    ScoredChain,
    UnscoredChain,
    from_answers,
    to_answers,
)
from agentfly.training.verl.parity import ImageInputs, digest  # noqa: E402
from agentfly.training.verl.reward_manager import AgentFlyRewardManager  # noqa: E402
from agentfly.training.verl.scoring import ChainScorer, images_needed, score_chain, score_chains  # noqa: E402
from agentfly.training.verl.scoring_group import ScoringGroup  # noqa: E402
from agentfly.training.verl.step_metrics import report_of  # noqa: E402
from agentfly.vision.factory import make_engines  # noqa: E402
from tests.unit.training.chains import ANSWER, bad_edit, good_edit, roll, task_of  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]


class Broken:
    """Evaluators that fail; used by name."""

    def __init__(self, bug: bool = False) -> None:
        self._bug = bug

    async def evaluate(self, sample: EditSample) -> Score:
        if self._bug:
            raise KeyError("a bug")
        raise EvaluatorError("the judge refuses")


BROKEN = f"{__name__}:Broken"


class Brightest:
    """Ranks results by their brightness; used by name."""

    relative = True
    asked: ClassVar[list[int]] = []

    async def evaluate(self, sample: EditSample) -> Score:
        self.asked.append(1)
        return Score(55.0)

    async def evaluate_group(self, samples: Sequence[EditSample]) -> list[Score | NotScored]:
        self.asked.append(len(samples))
        light = [float(np.asarray(sample.result).mean()) if sample.result else 0.0 for sample in samples]
        ranks = np.argsort(np.argsort(light))
        scores = [Score(100.0 * float(rank) / (len(light) - 1), "", {"agreement": 1.0}, True) for rank in ranks]
        return [NotScored("it is black") if level == 0.0 else score for level, score in zip(light, scores, strict=True)]


RANKED = f"{__name__}:Brightest"


@pytest.fixture(scope="module")
def task() -> EditTask:
    return task_of()


@pytest.fixture
def row(task: EditTask, tmp_path: Path) -> TaskRow:
    write_rows([task], tmp_path, "t")
    return {"index": 0, "task_file": str((tmp_path / "t.tasks.parquet").resolve())}


class Made:
    """Makes finished chains of one run."""

    def __init__(self, task: EditTask, row: TaskRow, codec: ChatCodec, out: Path) -> None:
        self.task, self.row, self.codec, self.out = task, row, codec, out

    def settings(self, **values: Any) -> TrainSettings:
        return TrainSettings(model="m", out=self.out, data=DataSettings(train="stickers"), **values)

    async def chain(self, *texts: str, **values: Any) -> FinishedChain:
        trajectory, store = await roll(self.task, texts, self.codec)
        request = ChainRequest(self.row, "u", step=4)
        return FinishedChain(trajectory, store, self.task, request, self.settings(**values))


@pytest.fixture
def made(task: EditTask, row: TaskRow, policy_codec: ChatCodec, tmp_path: Path) -> Made:
    return Made(task, row, policy_codec, tmp_path)


def packed(chain: FinishedChain) -> ChainToScore:
    trajectory = chain.trajectory
    return ChainToScore.of(chain, turn_results(trajectory), images_needed(trajectory, chain.settings))


async def score(settings: TrainSettings, message: ChainToScore) -> ScoredChain:
    result = await score_chain(ChainScorer(settings), message)
    assert isinstance(result, ScoredChain)
    return result


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_packed_chain_is_scored_as_it_would_be_here(made: Made) -> None:
    rewards = []
    for edit in (good_edit(made.task), bad_edit()):
        chain = await made.chain(edit, ANSWER)
        message = packed(chain)
        assert [array.dtype for array in message.images.values()] == [np.uint8]
        result = await score(made.settings(), message)
        assert result.token_rewards is None
        assert result.audit is None
        assert result.to_answer()["reward_score"] == result.reward
        await ChainScorer(made.settings()).score(chain.trajectory, made.task, chain.store)
        assert result.reward is not None
        assert chain.trajectory.reward == result.reward
        rewards.append(result.reward)
    assert rewards[0] > 0.8 > rewards[1]


async def test_credit_needs_the_images_of_every_turn(made: Made) -> None:
    more = bad_edit().replace("img_1", "img_2")
    chain = await made.chain(good_edit(made.task), more, ANSWER.replace("img_2", "img_3"), credit="end")
    message = packed(chain)
    assert len(message.images) == 2
    result = await score(chain.settings, message)
    assert result.token_rewards is not None
    assert sum(result.token_rewards) == pytest.approx(result.reward)
    assert min(result.token_rewards) < 0 < max(result.token_rewards)


@pytest.mark.parametrize(
    ("evaluator", "reason"),
    [
        (BROKEN, "the judge refuses"),
        ({"evaluator": BROKEN, "bug": True}, "KeyError: 'a bug'"),
    ],
)
async def test_what_is_not_scored_has_a_reason_and_no_number(made: Made, evaluator: Any, reason: str) -> None:
    chain = await made.chain(good_edit(made.task), ANSWER, evaluator=evaluator)
    result = await score_chain(ChainScorer(chain.settings), packed(chain))
    assert result == UnscoredChain(reason)
    assert ScoredChain.from_answer(result.to_answer()) == result


async def test_the_manager_takes_what_verl_hands_it(made: Made, tmp_path: Path) -> None:
    node = {"model": "m", "out": str(tmp_path), "data": {"train": "stickers"}}
    manager = AgentFlyRewardManager(OmegaConf.create({"agentfly": node}), None, None, reward_router_address=None)
    message = packed(await made.chain(good_edit(made.task), ANSWER))
    answer = await manager.run_single(DataProto(non_tensor_batch=ChainToScore.to_batch([message])))
    [scored] = from_answers(answer)
    assert isinstance(scored, ScoredChain)
    assert (scored.reward or 0.0) > 0.8


def worker(made: Made, settings: TrainSettings) -> AgentFlyLoopWorker:
    """A worker without Ray and queue, whose chains are scored in this process."""
    scorer = ChainScorer(settings)

    async def compute_score(data: Any) -> dict[str, object]:
        assert all(len(column) == len(data) for column in data.non_tensor_batch.values())
        return to_answers(await score_chains(scorer, ChainToScore.from_batch(data.non_tensor_batch)))

    bare = AgentFlyLoopWorker.__new__(AgentFlyLoopWorker)
    bare.reward_loop_worker_handles = [SimpleNamespace(compute_score=SimpleNamespace(remote=compute_score))]
    bare._context = LoopContext.build(settings, made.codec, RolloutLimits())
    bare._images = ImageInputs(made.codec)
    bare._recorder = recorder_of(settings, 10)
    bare._groups = {}
    return bare


def log_chain(chain: FinishedChain) -> None:
    """Record a chain as a worker does, and wait for it."""
    recorder = recorder_of(chain.settings, 10)
    recorder.record(record_of(chain))
    assert recorder.drain(30.0)


async def scored(made: Made, *texts: str, **values: Any) -> ChainOutput:
    chain = await made.chain(*texts, **values)
    output = output_of(chain, 8192, {})
    bare = worker(made, chain.settings)
    await bare._compute_score([output], {})
    assert await bare.drain_records(30.0)
    return output


async def test_a_scored_chain_reaches_the_trainer_and_the_log(made: Made) -> None:
    output = await scored(made, good_edit(made.task), ANSWER)
    chain = output.chain
    tokens = chain.trajectory.tokens
    assert tokens is not None
    assert output.reward_score == chain.trajectory.reward
    assert output.extra_fields["reward_extra_info"]["score"] == chain.trajectory.score
    # verl's queue carries it: plain values only.
    report = ChainReport.from_fields(json.loads(json.dumps(output.extra_fields)))
    assert report == ChainReport.from_fields(output.extra_fields)
    assert report.digest == digest(tokens.ids, tokens.mask)
    assert report.stop == "answered"
    assert (report.id, report.group, report.audit) == ("group-0", "group", None)
    assert report.parts == chain.trajectory.reward_parts
    assert report.facts.edits == 1
    assert {each.tool for each in report.intervals} == {"", "auto_inpaint_image", "give_answer"}
    (line,) = lines(made.out / "trajectories.jsonl")
    assert (line["step"], line["validate"], line["task"]["type"]) == (4, False, "named")
    assert line["trajectory"]["reward"] == output.reward_score


async def test_credit_reaches_verl_as_rewards_of_tokens(made: Made) -> None:
    output = await scored(made, good_edit(made.task), ANSWER, credit="even")
    rewards = output.as_dict()["rm_scores"]
    assert len(rewards) == len(output.response_ids)
    assert float(rewards.sum()) == pytest.approx(output.reward_score, abs=1e-6)
    assert (rewards != 0).sum() > 3
    (line,) = lines(made.out / "trajectories.jsonl")
    assert len(line["credit"]) == len(line["trajectory"]["turns"])
    assert sum(line["credit"]) == pytest.approx(output.reward_score)


async def test_the_audits_score_travels_apart_from_the_reward(made: Made) -> None:
    audit = AuditNode(evaluator="structural", settings={"share": 1.0})
    output = await scored(made, good_edit(made.task), ANSWER, audit=audit)
    alone = await scored(made, good_edit(made.task), ANSWER)
    assert ChainReport.from_fields(output.extra_fields).audit is not None
    assert output.reward_score == alone.reward_score
    audited, other = lines(made.out / "trajectories.jsonl")
    assert audited["evaluations"]["audit"]["value"] == ChainReport.from_fields(output.extra_fields).audit
    assert "evaluations" not in other
    assert "credit" not in other


async def test_a_chain_without_score_is_logged_and_never_trained_on(made: Made) -> None:
    with pytest.raises(ChainFault, match="chain group-0 is not scored: the judge refuses") as found:
        await scored(made, good_edit(made.task), ANSWER, evaluator=BROKEN)
    assert found.value.reason == "not_scored"
    assert found.value.chain.trajectory.reward is None
    assert found.value.chain.trajectory.reward_error == "the judge refuses"


@pytest.mark.parametrize("known", [True, False])
async def test_a_lost_chain_is_logged_and_reported_to_the_trainer(
    made: Made, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    put: list[dict[str, Any]] = []

    async def kv_put(**named: Any) -> None:
        put.append(named)

    chain = await made.chain(good_edit(made.task), ANSWER)

    async def lose(*_: Any, **__: Any) -> None:
        raise ChainFault("not_scored", "the judge is down", chain) if known else KeyError("a bug")

    monkeypatch.setattr(transfer_queue, "async_kv_put", kv_put)
    monkeypatch.setattr(loop_worker._Worker, "_run_agent_loop", lose)
    kwargs = {"agent_name": "agentfly", "uid": "u", "session_id": 3}
    bare = worker(made, chain.settings)
    with pytest.raises(ChainFault if known else KeyError):
        await bare._run_agent_loop({}, {"validate": False}, **kwargs)
    assert await bare.drain_records(30.0)
    [record] = put
    assert (record["key"], record["partition_id"]) == ("u_3", LostChain.PARTITION)
    [lost] = LostChain.find({LostChain.PARTITION: {record["key"]: record["tag"]}}, validate=False).values()
    log = made.out / "trajectories.jsonl"
    if known:
        assert lost == LostChain("u", "not_scored", "the judge is down", answered=True, validate=False)
        assert [line["trajectory"]["id"] for line in lines(log)] == [chain.trajectory.id]
    else:
        assert lost == LostChain("u", "bug", "KeyError: 'a bug'", answered=False, validate=False)
        assert not log.exists()


@pytest.mark.parametrize("validate", [True, False])
async def test_a_loop_knows_of_a_validation_and_the_queue_gets_verls_fields_alone(
    made: Made, monkeypatch: pytest.MonkeyPatch, validate: bool
) -> None:
    seen: list[dict[str, Any]] = []

    async def run(self: AgentFlyLoopWorker, sampling: Any, trajectory: dict[str, Any], **kwargs: Any) -> None:
        seen.append(kwargs)
        await self._agent_loop_postprocess(cast(ChainOutput, None), trajectory["validate"], **kwargs)

    async def put(self: AgentFlyLoopWorker, output: Any, validate: bool, **kwargs: Any) -> None:
        seen.append(kwargs)

    monkeypatch.setattr(loop_worker._Worker, "_run_agent_loop", run)
    monkeypatch.setattr(loop_worker._Worker, "_agent_loop_postprocess", put)
    await worker(made, made.settings())._run_agent_loop({}, {"validate": validate}, uid="u", session_id=3)
    assert seen == [{"uid": "u", "session_id": 3, VALIDATE: validate}, {"uid": "u", "session_id": 3}]


async def ran(made: Made, monkeypatch: pytest.MonkeyPatch, *texts: Sequence[str], validate: bool = False) -> list[Any]:
    """Run the chains of a prompt through verl's own method; chains without texts break. Returns outputs and faults."""
    settings = made.settings(evaluator=RANKED)
    bare, found, put = worker(made, settings), list[Any](), list[dict[str, Any]]()

    async def run(self: AgentFlyLoopWorker, sampling: Any, trajectory: Any, *, session_id: int, **kwargs: Any) -> None:
        if not texts[session_id]:
            raise KeyError("a bug")
        chain = await made.chain(*texts[session_id], evaluator=RANKED)
        request = replace(chain.request, uid=kwargs["uid"], session=session_id)
        output = output_of(replace(chain, request=request), 8192, {})
        await self._compute_score([output], {})
        found.append(output)

    async def kv_put(**named: Any) -> None:
        put.append(named)

    Brightest.asked.clear()
    monkeypatch.setattr(loop_worker._Worker, "_run_agent_loop", run)
    monkeypatch.setattr(transfer_queue, "async_kv_put", kv_put)
    rollout = {"n": len(texts), "val_kwargs": {"n": len(texts)}}
    bare.config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})
    await bare._run_prompt({"uid": "u"}, {}, {"validate": validate})
    assert bare._groups == {}
    statuses = [named["tag"]["status"] for named in put if "status" in named["tag"]]
    return [sorted(found, key=lambda output: output.chain.request.session), statuses]


async def test_chains_of_a_prompt_are_scored_together_through_verls_reward_loop(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    darker = bad_edit().replace("brighten", "darken")
    edits = [(darker, ANSWER), (), (bad_edit(), ANSWER), (good_edit(made.task), ANSWER)]
    outputs, statuses = await ran(made, monkeypatch, *edits)
    # The chain that broke keeps nobody waiting, and verl counts it as it does.
    assert (Brightest.asked, statuses) == ([3], ["running", "failure"])
    assert [output.chain.trajectory.score for output in outputs] == [0.0, 100.0, 50.0]
    assert [output.reward_score for output in outputs] == pytest.approx([0.0, 1.0, 0.5])
    reports = [ChainReport.from_fields(output.extra_fields) for output in outputs]
    assert [(report.relative, report.agreement) for report in reports] == [(True, 1.0)] * 3


async def test_chains_of_a_validation_and_one_alone_get_single_scores(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = [(bad_edit(), ANSWER), (good_edit(made.task), ANSWER)]
    outputs, _ = await ran(made, monkeypatch, *edits, validate=True)
    assert [output.chain.trajectory.score for output in outputs] == [55.0, 55.0]
    outputs, _ = await ran(made, monkeypatch, edits[0], ())
    assert ([output.chain.trajectory.score for output in outputs], Brightest.asked) == ([55.0], [1])
    assert not ChainReport.from_fields(outputs[0].extra_fields).relative


async def test_a_chain_that_comes_too_late_is_not_scored_by_another_measure(made: Made) -> None:
    chain = await made.chain(good_edit(made.task), ANSWER)
    scored = ScoredChain(1.0, {}, 1.0, {})

    async def ask(chains: Sequence[FinishedChain]) -> Sequence[ScoredChain]:
        return [scored] * len(chains)

    group = ScoringGroup(2, ask, 0.01)
    assert await group.score(0, chain) == scored
    late = await group.score(1, chain)
    assert isinstance(late, UnscoredChain)
    assert "had waited" in late.reason


async def test_inputs_of_images_are_made_and_proved(made: Made) -> None:
    chain = await made.chain(good_edit(made.task), ANSWER)
    output, bare = output_of(chain, 8192, {}), worker(made, chain.settings)
    ids = torch.tensor([output.prompt_ids + output.response_ids])
    inputs = bare._compute_multi_modal_inputs(output, ids)
    assert inputs["image_grid_thw"].tolist() == [[1, 6, 6]] * 2
    missing = ids.clone()
    missing[0, int((ids[0] == made.codec.image_id).nonzero()[-1])] = 0
    with pytest.raises(TrainingError, match=r"chain group-0, after turn 0, image 1 .*has 8 placeholders"):
        bare._compute_multi_modal_inputs(output, missing)


async def test_images_are_kept_unless_somebody_does_not_want_them(made: Made) -> None:
    chain = await made.chain(good_edit(made.task), ANSWER, images=False)
    log_chain(chain)
    assert not (made.out / "images").exists()
    assert lines(made.out / "trajectories.jsonl")[-1]["images_kept"] is False
    chain = await made.chain(good_edit(made.task), ANSWER, trajectories=False)
    log_chain(chain)
    assert len(lines(made.out / "trajectories.jsonl")) == 1
    kept = ImageStore(made.out / "images")
    # The source, the edit and its mask, and nothing else: equal ones are one.
    assert len(list((made.out / "images").glob("*.png"))) == 3
    assert kept.get(chain.trajectory.final_image or "") == chain.store.get(chain.trajectory.final_image or "")


async def test_a_damaged_image_of_the_log_is_mended_by_the_next_chain_that_has_it(made: Made) -> None:
    chain = await made.chain(good_edit(made.task), ANSWER)
    log_chain(chain)
    file = made.out / "images" / f"{chain.trajectory.final_image}.png"
    file.write_bytes(b"")
    log_chain(chain)  # in another process
    assert ImageStore(made.out / "images").get(file.stem) == chain.store.get(file.stem)


async def test_a_full_disk_names_the_log_once_and_ends_no_run(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chain = await made.chain(good_edit(made.task), ANSWER)
    write, reported = os.write, []

    def full(file: int, data: bytes) -> int:
        if "trajectories" not in os.readlink(f"/proc/self/fd/{file}"):
            return write(file, data)
        if len(data) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:-50])

    async def put(self: LostChain, session: int) -> None:
        reported.append(self.reason)

    async def lose(self: AgentFlyLoopWorker, *arguments: Any, **named: Any) -> None:
        raise ChainFault("not_scored", "no score", chain)

    monkeypatch.setattr(loop_worker._Worker, "_run_agent_loop", lose)
    monkeypatch.setattr(LostChain, "put", put)
    monkeypatch.setattr(os, "write", full)
    bare = worker(made, chain.settings)
    for _ in range(2):
        with pytest.raises(ChainFault, match="no score"):
            await bare._run_agent_loop({}, {"validate": False}, uid="u", session_id=3)
    assert await bare.drain_records(30.0)
    monkeypatch.undo()
    assert reported == ["not_scored"] * 2
    notices = [text for text in map(notice_in, caplog.messages) if text is not None]
    assert len(notices) == 1
    assert re.match(r"chains cannot be logged, and .*No space left on device: '.*trajectories\.jsonl'", notices[0])
    # There is space again.
    bare._recorder.record(record_of(chain))
    assert await bare.drain_records(30.0)
    assert len(lines(made.out / "trajectories.jsonl")) == 1


async def test_a_report_stands_for_its_chain(made: Made) -> None:
    chain = await made.chain("no")
    await ChainScorer(made.settings()).score(chain.trajectory, made.task, chain.store)
    report = report_of(chain, ScoredChain(1.0, {}, 1.0, {}, audit=40.0), make_engines("classical"))
    assert (report.audit, report.facts.calls, report.facts.answered) == (40.0, 0, False)
    assert report.reward == pytest.approx(-0.05)


async def test_a_run_of_version_0_1_keeps_the_folder_of_its_images(made: Made) -> None:
    (made.out / "pictures").mkdir()
    log_chain(await made.chain(good_edit(made.task), ANSWER))
    assert not (made.out / "images").exists()
    assert len(list((made.out / "pictures").glob("*.png"))) == 3


def test_the_trainer_waits_for_the_records_of_all_workers(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_base, "Tracking", trainer_base.Tracking)  # and puts it back
    node = {"model": "m", "out": str(made.out), "data": {"train": "stickers"}}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": {}, "model": {}}, "agentfly": node})
    manager = loop_worker.AgentFlyLoopManager(config, None)
    assert trainer_base.Tracking.keywords["drain"] == manager.drain_records

    def workers(*answers: Any) -> list[Any]:
        return [SimpleNamespace(drain_records=SimpleNamespace(remote=lambda limit, a=a: (a, limit))) for a in answers]

    def get(answers: Any, timeout: float) -> list[bool]:
        assert all(limit < timeout for _, limit in answers)
        if any(isinstance(answer, Exception) for answer, _ in answers):
            raise next(answer for answer, _ in answers if isinstance(answer, Exception))
        return [answer for answer, _ in answers]

    monkeypatch.setattr("ray.get", get)
    for answers, expected in (((True, True), True), ((True, False), False), ((True, OSError("gone")), False)):
        manager.agent_loop_workers = workers(*answers)
        assert manager.drain_records(2.0) is expected
