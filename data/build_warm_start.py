"""Write `warm_start/`: the tiny policy that `make quickstart` begins with, and its held-out figures.

Run it from the root of the repository before a release that changes the warm start: `python data/build_warm_start.py`.
It takes some minutes. Run it again to resume one that was stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import shutil
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from agentfly.files import write_text
from agentfly.training.launch.subprocess_phase import PhaseProcess, ProgressDisplay
from agentfly.training.quickstart.evaluation import EvaluationPlan, evaluate_policy, read_evaluation
from agentfly.training.quickstart.warm_start import FIGURES, WarmStartConfig, cores, warm_start

DEFAULT_PATH = Path(__file__).parent / "warm_start"
COMMAND = "python data/build_warm_start.py"


def figures(evaluation: Path, plan: EvaluationPlan, seconds: float) -> dict[str, object]:
    """Return the held-out scores of the policy with intervals, and the circumstances of its training.

    Args:
        evaluation: folder of the held-out passes.
        plan: of the evaluation.
        seconds: that the training took.
    """
    passes = {name: read_evaluation(evaluation / f"{name}.jsonl").summary() for name in ("greedy", "sampled")}
    return {
        "command": COMMAND,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{cores()} cores, {_processor()}",
        "warm_start_seconds": round(seconds),
        "tasks_per_family": plan.tasks_per_family,
        **{
            name: {
                "score": found["score"],
                "score_by_family": found["score_by_family"],
                "success": found["success"],
                "tool_calls_per_task": found["tool_calls_per_task"],
            }
            for name, found in passes.items()
        },
    }


def _processor() -> str:
    """Return the model of the processor, and its widest instructions for small floats."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    pairs = (line.partition(":")[::2] for line in lines if ":" in line)
    known = {key.strip(): value.strip() for key, value in pairs}
    widest = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in known.get("flags", "").split()]
    return ", ".join([known.get("model name", platform.machine()), *widest[:1]])


def main() -> None:
    """Write the policy to the folder on the command line, or to the default one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=DEFAULT_PATH)
    path: Path = parser.parse_args().path
    work = path.with_name(f"{path.name}.partial")
    plan = EvaluationPlan()
    with ProgressDisplay(Console()) as display, PhaseProcess() as process:
        run = partial(process.run, log=work / "build.log", on_progress=display.update)
        seconds = run(warm_start, {"config": WarmStartConfig(), "folder": work / "policy"})
        run(evaluate_policy, {"policy": work / "policy", "out": work / "evaluation", "plan": plan})
    text = json.dumps(figures(work / "evaluation", plan, seconds), indent=2)
    write_text(work / "policy" / FIGURES, text + "\n")
    shutil.rmtree(path, ignore_errors=True)
    (work / "policy").rename(path)
    shutil.rmtree(work)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
