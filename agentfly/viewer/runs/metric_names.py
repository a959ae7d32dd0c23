"""What the metrics of a run mean, in the sections that a researcher looks for them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

SECTIONS: Final = ("Learning", "Held-out tasks", "Rollout", "Tools", "Time", "Health", "Audit", "Optimiser", "Other")

# By pattern of the whole name; the first that fits counts. `{0}` is the first group of the pattern.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (r"reward/mean", "Learning", "mean reward of the chains that the step was trained on"),
    (r"reward/(std|min|max)", "Learning", "{0} of the rewards of the step's chains"),
    (r"reward/part/(.+)", "Learning", "the part “{0}” of the reward, mean over chains"),
    (r"reward/group/count", "Learning", "prompts of the step"),
    (r"reward/group/std_within", "Learning", "spread of the rewards between chains of one prompt; 0 teaches nothing"),
    (r"reward/group/zero_variance", "Learning", "share of prompts whose chains all have one reward and teach nothing"),
    (r"reward/group/all_best", "Learning", "share of prompts that teach nothing because they are too easy"),
    (r"reward/group/all_worst", "Learning", "share of prompts that teach nothing because they are too hard"),
    (r"reward/group/ranked", "Learning", "share of the chains whose score is a rank among those of their prompt"),
    (r"reward/group/agreement", "Learning", "how far the judge's orders of a prompt's chains agree; 0.5 is chance"),
    (r"critic/(score|rewards)/(\w+)", "Learning", "verl's {1} of the {0} of the step's chains"),
    (r"val-(?:core|aux)/([^/]+)/(.+)", "Held-out tasks", "{1} of the validation chains of type {0}"),
    (r"validation/(.+)", "Held-out tasks", "{0} of the validation before the step"),
    (r"val-.*", "Held-out tasks", "of the validation chains"),
    (r"chains/lost", "Rollout", "chains that were lost to faults, and not trained on"),
    (r"chains/lost_share", "Rollout", "share of the chains that were lost to faults"),
    (r"chains/lost/(.+)", "Rollout", "chains that were lost because of: {0}"),
    (r"chains/stop/(.+)", "Rollout", "chains that ended by: {0}"),
    (r"chains/sampled_again", "Rollout", "times that the step was sampled again"),
    (r"response_length/clip_ratio", "Rollout", "share of the chains that filled the room for a response"),
    (r"response_length(\w*)/(\w+)", "Rollout", "{1} of the tokens of a chain after its prompt, observations included"),
    (r"prompt_length/(\w+)", "Rollout", "{0} of the tokens of a prompt"),
    (r"num_turns/(\w+)", "Rollout", "{0} of the turns of a chain, as verl counts them"),
    (r"response/aborted_ratio", "Rollout", "share of the chains without a response"),
    (r"rollout/(.+)", "Rollout", "of the rollout engine"),
    (r"cache/hit_rate", "Tools", "share of the tool calls that the cache answered"),
    (r"cache/(hits|misses)", "Tools", "{0} of the tool cache"),
    (r"wait/policy_idle", "Tools", "share of the rollout in which no chain generated and one waited for a tool"),
    (r"wait/because/(.+)", "Tools", "share of the rollout that the policy waited for {0}"),
    (r"wait/seconds/(.+)", "Tools", "seconds in calls of {0}, over all chains"),
    (r"wait/calls/(.+)", "Tools", "calls of {0} in the step"),
    (r"timing_s/step", "Time", "seconds of the whole step"),
    (r"timing_s/gen", "Time", "seconds of the rollout: the policy, its tools and the scores"),
    (r"timing_s/old_log_prob", "Time", "seconds in which the trainer computed the probabilities of the sampled tokens"),
    (r"timing_s/ref", "Time", "seconds of the reference model"),
    (r"timing_s/values", "Time", "seconds of the critic's values"),
    (r"timing_s/update_actor", "Time", "seconds of the policy's update"),
    (r"timing_s/update_critic", "Time", "seconds of the critic's update"),
    (r"timing_s/update_weights", "Time", "seconds in which the rollout engine got the new weights"),
    (r"timing_s/testing", "Time", "seconds of the validation"),
    (r"timing_s/save_checkpoint", "Time", "seconds of writing a checkpoint"),
    (r"timing_s/(.+)", "Time", "seconds of {0}"),
    (r"timing_per_token_ms/(.+)", "Time", "milliseconds a token of {0}"),
    (r"perf/throughput", "Time", "tokens a second and device"),
    (r"perf/time_per_step", "Time", "seconds of the whole step"),
    (r"perf/total_num_tokens", "Time", "tokens of the step, observations and prompts included"),
    (r"perf/mfu/(.+)", "Time", "share of the device's arithmetic that {0} used"),
    (r"perf/(.+)", "Time", "{0}, as verl measures it"),
    (r"health/tool_calls", "Health", "tool calls of a chain"),
    (r"health/look_calls", "Health", "calls of a chain that only look"),
    (r"health/no_op_edits", "Health", "share of the edits that changed nothing"),
    (r"health/repeat_loops", "Health", "share of the chains that repeat the very same call"),
    (r"health/parse_failures", "Health", "share of the calls that could not be read"),
    (r"health/answer_without_edit", "Health", "share of the answered chains in which no edit changed anything"),
    (r"health/mask_coverage", "Health", "share of the image under the masks that were used"),
    (r"audit/gap", "Audit", "reward's evaluator minus second evaluator on the same chains; growing means fooled"),
    (r"audit/reward", "Audit", "score of the reward's evaluator, 0 to 1, over all chains"),
    (r"audit/mean", "Audit", "score of the second evaluator, 0 to 1, which is no part of the reward"),
    (r"audit/(rank_)?correlation", "Audit", "correlation of both evaluators on the same chains"),
    (r"audit/alarm", "Audit", "1 where the reward rose while the second evaluator's score fell"),
    (r"audit/(samples|not_scored)", "Audit", "chains that were audited, or could not be"),
    (r"audit/(reward|audit)_trend", "Audit", "rise from the first half of the window to the second"),
    (r"actor/entropy", "Optimiser", "entropy of the policy; near 0 it tries nothing new"),
    (r"actor/pg_loss", "Optimiser", "loss of the policy gradient; its level says little"),
    (r"actor/pg_clipfrac(_lower)?", "Optimiser", "share of the tokens whose update was clipped"),
    (r"actor/ppo_kl", "Optimiser", "distance of the policy from the one that sampled"),
    (r"actor/kl_loss", "Optimiser", "distance of the policy from the reference"),
    (r"actor/grad_norm", "Optimiser", "norm of the policy's gradient before clipping"),
    (r"actor/lr", "Optimiser", "learning rate of the policy"),
    (r"critic/vf_explained_var", "Optimiser", "share of the returns' variance that the critic explains; 1 is all"),
    (r"critic/(advantages|returns|values)/(\w+)", "Optimiser", "{1} of the {0} of the sampled tokens"),
    (r"training/rollout_probs_diff_(\w+)", "Optimiser", "{0} difference between rollout's and trainer's probabilities"),
    (r"training/rollout_actor_probs_pearson_corr", "Optimiser", "correlation of rollout's and trainer's probabilities"),
    (r"training/(global_step|epoch)", "Other", "{0} of verl"),
    (r"(?:actor|critic|rollout_corr)/(.+)", "Optimiser", ""),
    (r"global_seqlen/(.+)", "Time", "tokens by device, {0}: how even the work was"),
)
_KNOWN = tuple((re.compile(pattern), section, words) for pattern, section, words in _MEANINGS)


def meaning_of(name: str) -> tuple[str, str]:
    """Return the section of a metric, and its meaning in a few words ("" where it is not known)."""
    for pattern, section, words in _KNOWN:
        if found := pattern.fullmatch(name):
            return section, words.format(*((group or "").replace("_", " ") for group in found.groups()))
    return "Other", ""


# Parts of a step that follow one another, in order, and the words for them.
PHASES: Final[Mapping[str, str]] = {
    "gen": "rollout",
    "reward": "reward",
    "old_log_prob": "log-probs",
    "ref": "reference",
    "values": "values",
    "adv": "advantage",
    "update_critic": "critic",
    "update_actor": "update",
    "update_weights": "weights",
    "save_checkpoint": "checkpoint",
    "testing": "validation",
}
