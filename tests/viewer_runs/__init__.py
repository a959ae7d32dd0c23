"""Runs for tests, benchmarks and screenshots of the viewer: real tools, real writers, no model.

    from tests.viewer_runs import TrainingPlan, TrainingRun, evaluation_run, hostile_run, training_run

    training_run(tmp_path / "run")                                  # 8 steps of 4 x 4 chains, 6 s
    training_run(tmp_path / "run", TrainingPlan(steps=2, groups=2)) # 22 chains, 2 s
    run = TrainingRun(tmp_path / "run"); run.add_step()             # step by step: a run that is still written
    evaluation_run(tmp_path / "a", 20, Policy(skill=0.2))           # the same tasks as any other of 20: to compare
    evaluation_run(tmp_path / "b", 20, Policy(skill=0.9))
    agent_run(tmp_path / "c")                                       # agent.run(log_dir=…): no scores, no tokens
    quickstart_run(tmp_path / "d")                                  # training/, evaluation/…, summary.json
    hostile_run(tmp_path / "e")                                     # markup, NaN, 1 MB, broken images, torn lines
    many_chains(tmp_path / "f")                                     # 50,000 chains
    long_chains(tmp_path / "g")                                     # 1,000 chains of 100 turns
    log_of_bytes(tmp_path / "h")                                    # 127 MB

Chains come from the classical engines on sticker tasks, so that a call that runs again gives the same image. Token ids
are those of the tokenizer in `data/warm_start`; log-probs are drawn at random. But for times, the same arguments give
the same run. Every folder must be new.
"""

from tests.viewer_runs.chains import Policy, play, tasks_of
from tests.viewer_runs.evaluation import agent_run, evaluation_run, quickstart_run
from tests.viewer_runs.hostile import hostile_run
from tests.viewer_runs.large import log_of_bytes, long_chains, many_chains
from tests.viewer_runs.training import TrainingPlan, TrainingRun, training_run

__all__ = [
    "Policy",
    "TrainingPlan",
    "TrainingRun",
    "agent_run",
    "evaluation_run",
    "hostile_run",
    "log_of_bytes",
    "long_chains",
    "many_chains",
    "play",
    "quickstart_run",
    "tasks_of",
    "training_run",
]
