"""Corrections for chains of another policy, by verl's own functions: of sampled tokens alone, whatever tools say."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
from omegaconf import OmegaConf  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.trainer.config.algorithm import RolloutCorrectionConfig  # noqa: E402
from verl.trainer.ppo.core_algos import (  # noqa: E402
    compute_grpo_outcome_advantage,
    compute_policy_loss_bypass_mode,
    compute_policy_loss_vanilla,
)
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch  # noqa: E402
from verl.workers.config.actor import FSDPActorConfig, PolicyLossConfig  # noqa: E402
from verl.workers.rollout import llm_server  # noqa: E402
from verl.workers.rollout.replica import TokenOutput  # noqa: E402

from agentfly.templates import ChatCodec  # noqa: E402
from agentfly.training.recipe.verl_dataset import write_rows  # noqa: E402
from agentfly.training.verl import agent_loop  # noqa: E402
from agentfly.training.verl.turn_grpo import turn_numbers  # noqa: E402
from tests.unit.training.chains import ANSWER, ANSWER_SOURCE, good_edit, task_of  # noqa: E402
from tests.unit.training.verl.test_agent_loop import Server, common, loop  # noqa: E402

pytestmark = pytest.mark.slow

Tensor = Any


@pytest.fixture(scope="module")
def chains(policy_codec: ChatCodec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Return mask and log-probs of two chains, padded: one that edits and answers, and one that only answers."""
    folder, task = tmp_path_factory.mktemp("chains"), task_of()
    write_rows([task], folder, "t")
    extra = {"index": 0, "task_file": str((folder / "t.tasks.parquet").resolve())}
    outputs = []
    for number, texts in enumerate(([good_edit(task), ANSWER], [ANSWER_SOURCE])):
        run = loop(common(policy_codec, folder), Server(policy_codec, texts))
        kwargs = {"extra_info": extra, "uid": "u", "session_id": number, "global_steps": 3}
        outputs.append(asyncio.run(run.run({}, **kwargs)))

    def padded(rows: list[list[float]]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)

    mask = padded([output.response_mask for output in outputs])
    observed = (mask == 0) & (torch.arange(mask.shape[1]) < torch.tensor([[len(o.response_mask)] for o in outputs]))
    assert observed[0].any(), "the tool has answered in the first chain"
    return {"mask": mask, "rollout": padded([output.response_logprobs for output in outputs]), "observed": observed}


def corrected(chains: dict[str, Tensor], ratio: Tensor, **settings: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return verl's weights (None without) and mask for ratios of the trainer's probabilities to the rollout's.

    What the trainer computes for tokens of the tools is of no meaning, and far away here.
    """
    old = chains["rollout"] + ratio.log() + 50.0 * chains["observed"]
    tensors = {"old_log_probs": old, "rollout_log_probs": chains["rollout"], "response_mask": chains["mask"].clone()}
    config = OmegaConf.structured(RolloutCorrectionConfig(**{"rollout_is": None, **settings}))
    batch, metrics = compute_rollout_correction_and_add_to_batch(DataProto.from_dict(tensors), config)
    return batch.batch.get("rollout_is_weights", None), batch.batch["response_mask"], metrics


def ratios(chains: dict[str, Tensor], *of_chain: float) -> Tensor:
    return torch.tensor(of_chain).unsqueeze(-1).expand(chains["mask"].shape).clone()


def test_weights_of_tokens_are_cut_and_those_of_tools_are_none(chains: dict[str, Tensor]) -> None:
    ratio, mask = ratios(chains, 1.5, 0.5), chains["mask"]
    ratio[0, 0] = 8.0
    weights, kept, metrics = corrected(chains, ratio, rollout_is="token", rollout_is_threshold=2.0)
    assert torch.equal(weights, torch.clamp(ratio, max=2.0) * mask)
    assert not weights[chains["observed"]].any()
    assert torch.equal(kept, mask)
    assert metrics["rollout_corr/kl"] < 10.0, "tokens of tools are not among the metrics"


def test_bounds_on_both_sides_leave_out_what_is_beyond_them(chains: dict[str, Tensor]) -> None:
    ratio = ratios(chains, 1.5, 1.0)
    ratio[0, 0], ratio[0, 1] = 8.0, 0.2
    weights, kept, _ = corrected(chains, ratio, rollout_is="token", rollout_is_threshold="0.5_5.0")
    assert weights[0, :3].tolist() == [0.0, 0.0, pytest.approx(1.5)]
    assert torch.equal(kept, chains["mask"])  # they count as tokens of the batch all the same


def test_the_weight_of_a_chain_is_the_product_of_its_sampled_tokens(chains: dict[str, Tensor]) -> None:
    lengths = chains["mask"].sum(-1)
    weights, _, _ = corrected(chains, ratios(chains, 1.01, 0.99), rollout_is="sequence", rollout_is_threshold=10.0)
    for row, (ratio, length) in enumerate(zip((1.01, 0.99), lengths.tolist(), strict=True)):
        assert weights[row][chains["mask"][row].bool()].tolist() == pytest.approx([ratio**length] * length, rel=1e-4)
    assert not weights[chains["observed"]].any()


def test_weights_with_a_mean_of_one_keep_the_size_of_the_step(chains: dict[str, Tensor]) -> None:
    ratio = ratios(chains, 1.6, 1.2)
    weights, _, _ = corrected(chains, ratio, rollout_is="token", rollout_is_batch_normalize=True)
    assert weights[chains["mask"].bool()].mean() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("option", "threshold"),
    [
        ("seq_mean_k1", "0.9_1.1"),  # the geometric mean of the ratios
        ("seq_sum_k1", "0.5_2.0"),  # their product
        ("seq_max_k2", 0.1),  # the worst token
        ("seq_mean_k3", 0.02),
    ],
)
def test_a_chain_far_from_the_policy_is_rejected_whole(
    chains: dict[str, Tensor], option: str, threshold: str | float
) -> None:
    far, near = 0, 1
    _, kept, metrics = corrected(chains, ratios(chains, 1.6, 1.001), rollout_rs=option, rollout_rs_threshold=threshold)
    assert not kept[far].any()
    assert torch.equal(kept[near], chains["mask"][near])
    assert metrics["rollout_corr/rollout_rs_seq_masked_fraction"] == 0.5


def test_length_hides_nothing_from_the_geometric_mean_and_adds_nothing_to_it(chains: dict[str, Tensor]) -> None:
    same = ratios(chains, 1.02, 1.02)
    lengths = chains["mask"].sum(-1)
    assert lengths[0] > 1.5 * lengths[1]
    _, by_mean, _ = corrected(chains, same, rollout_rs="seq_mean_k1", rollout_rs_threshold="0.9_1.1")
    assert torch.equal(by_mean, chains["mask"])
    # A product bound that the short chain just keeps rejects the long one, for its length alone.
    bound = 1.02 ** (lengths[1].item() + 1)
    _, by_sum, _ = corrected(chains, 1 / same, rollout_rs="seq_sum_k1", rollout_rs_threshold=f"0.1_{bound}")
    assert (by_sum.sum(-1) > 0).tolist() == [False, True]


def test_single_tokens_are_rejected_and_would_cut_a_turn_in_two(chains: dict[str, Tensor]) -> None:
    ratio = ratios(chains, 1.0, 1.0)
    ratio[0, 3] = 9.0
    _, kept, _ = corrected(chains, ratio, rollout_rs="token_k1", rollout_rs_threshold="0.5_2.0")
    assert (chains["mask"] - kept).nonzero().tolist() == [[0, 3]]
    # The dry run refuses it for turn_grpo, which finds turns by runs of sampled tokens.
    assert turn_numbers(kept.bool())[0].max() == turn_numbers(chains["mask"].bool())[0].max() + 1


def actor(**changes: Any) -> FSDPActorConfig:
    sizes = {"ppo_micro_batch_size_per_gpu": 1, "rollout_n": 2}
    return FSDPActorConfig(clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.2, **sizes, **changes)


def advantages(chains: dict[str, Tensor], mask: Tensor) -> Tensor:
    rewards = torch.zeros(chains["mask"].shape)
    rewards[0, -1], rewards[1, -1] = 1.0, 0.0
    return compute_grpo_outcome_advantage(rewards, mask, np.array(["a", "a"], dtype=object))[0]


def test_a_rejected_chain_still_counts_in_its_group(chains: dict[str, Tensor]) -> None:
    _, kept, _ = corrected(chains, ratios(chains, 1.6, 1.001), rollout_rs="seq_mean_k1", rollout_rs_threshold="0.9_1.1")
    whole, left = advantages(chains, chains["mask"]), advantages(chains, kept)
    assert torch.equal(left[1], whole[1])
    assert not left[0].any()


def gradient(loss_of: Any, chains: dict[str, Tensor], ratio: Tensor, mask: Tensor, config: Any) -> Tensor:
    """Return the gradient of the loss by each token's log-prob under the policy, for ratios to the old one."""
    log_prob = (chains["rollout"] + ratio.log() + 3.0 * chains["observed"]).requires_grad_()
    loss, _ = loss_of(
        old_log_prob=chains["rollout"],
        log_prob=log_prob,
        advantages=advantages(chains, chains["mask"]),
        response_mask=mask,
        loss_agg_mode="token-mean",
        config=config,
    )
    loss.backward()
    return log_prob.grad


def test_several_updates_of_a_batch_stop_where_the_policy_has_moved_enough(chains: dict[str, Tensor]) -> None:
    mask, config = chains["mask"], actor()
    first = gradient(compute_policy_loss_vanilla, chains, ratios(chains, 1.0, 1.0), mask, config)
    assert torch.equal(first != 0, mask.bool())
    assert (first[0][mask[0].bool()] < 0).all()  # the better chain becomes more likely
    # After some updates on the same chains: the better one is 1.3 times as likely, the worse one 0.9 times.
    later = gradient(compute_policy_loss_vanilla, chains, ratios(chains, 1.3, 0.9), mask, config)
    assert not later[0].any()
    assert torch.equal(later[1] != 0, mask[1].bool())


@pytest.mark.parametrize("loss_type", ["ppo_clip", "reinforce"])
def test_the_bypass_loss_rejects_by_the_policy_of_the_moment(chains: dict[str, Tensor], loss_type: str) -> None:
    given = {"rollout_is": "token", "rollout_rs": "seq_mean_k1", "rollout_rs_threshold": "0.9_1.1"}
    correction = RolloutCorrectionConfig(bypass_mode=True, loss_type=loss_type, **given)
    config = actor(policy_loss=PolicyLossConfig(loss_mode="bypass_mode", rollout_correction=correction))
    near, far = ratios(chains, 1.05, 1.05), ratios(chains, 1.05, 1.6)
    mask = chains["mask"].bool()
    assert torch.equal(gradient(compute_policy_loss_bypass_mode, chains, near, mask, config) != 0, mask)
    moved = gradient(compute_policy_loss_bypass_mode, chains, far, mask, config)
    assert not moved[1].any()
    assert torch.equal(moved[0] != 0, mask[0])


async def test_a_turn_that_an_update_interrupts_goes_on_and_stays_exact(
    policy_codec: ChatCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partial rollout: verl's client asks again with what was sampled, and our loop sees one turn of two policies."""
    monkeypatch.setattr(agent_loop, "_context", None)
    task = task_of()
    write_rows([task], tmp_path, "t")
    extra = {"index": 0, "task_file": str((tmp_path / "t.tasks.parquet").resolve())}
    end = policy_codec.tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = [*policy_codec.tokenizer(ANSWER_SOURCE)["input_ids"], end]
    asked: list[dict[str, Any]] = []

    class Replica:
        async def remote(self, **request: Any) -> TokenOutput:
            asked.append({**request, "sampling_params": dict(request["sampling_params"])})
            first = len(asked) == 1
            part, version = (ids[:5], 3) if first else (ids[5:], 4)
            reason = "aborted" if first else "completed"
            made = {"token_ids": part, "log_probs": [-0.1 * version] * len(part), "stop_reason": reason}
            return TokenOutput(**made, extra_fields={"global_steps": version})

    class Client(llm_server.FullyAsyncLLMServerClient):  # type: ignore[misc, unused-ignore]
        async def _acquire_server(self, request_id: str, **extra: object) -> tuple[str, Any]:
            return "server", SimpleNamespace(generate=Replica())

        def _release_server(self, server_id: str, request_id: str | None = None) -> None: ...

    async def at_once(seconds: float) -> None: ...

    monkeypatch.setattr(llm_server, "asyncio", SimpleNamespace(sleep=at_once))
    client = Client(OmegaConf.create({"actor_rollout_ref": {"rollout": {"name": "vllm"}}}))
    kwargs = {"extra_info": extra, "uid": "u", "session_id": 0, "global_steps": 4}
    output = await loop(common(policy_codec, tmp_path), client).run({"temperature": 1.0}, **kwargs)
    assert output.response_ids[: len(ids)] == ids
    assert len(output.chain.trajectory.turns) == 1
    assert output.response_logprobs[: len(ids)] == pytest.approx([-0.3] * 5 + [-0.4] * (len(ids) - 5))
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (3, 4)
    # The second request has what the first one sampled, and only the tokens that are left.
    assert asked[1]["prompt_ids"][-5:] == ids[:5]
    assert asked[1]["sampling_params"]["max_tokens"] == asked[0]["sampling_params"]["max_tokens"] - 5
    assert math.isclose(sum(output.response_mask), len(ids))
