"""The child process of a run: `python -m agentfly.training.driver <hydra arguments>` is verl's trainer, checked.

`agentfly.training.launch` starts it. It ends when its parent does, so a killed launcher leaves no training behind.
`python -m agentfly.training.driver check FILE` checks a configuration and ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent process dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main() -> None:
    """Run verl's trainer on the command line of this process."""
    end_with_parent()
    if os.environ.get("VERL_PLATFORM") == "cpu":
        from agentfly.training.cpu import check_platform

        check_platform()
    if sys.argv[1:2] == ["check"]:
        from agentfly.training.verl_checks import main as check

        check(Path(sys.argv[2]))
        return
    from verl.trainer.main_ppo import main as train

    train()


if __name__ == "__main__":
    main()
