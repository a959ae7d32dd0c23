"""Start the preloaded parent of a run on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agentfly.training.launch.preload import client

# What a run on a CPU needs: the trainer, its workers, the rollout engine and the agent loop.
MODULES = (
    "verl.trainer.main_ppo",
    "verl.workers.engine_workers",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "agentfly.training.cpu.vllm_worker",
    "agentfly.training.verl.agent_loop",
    "agentfly.training.verl.loop_worker",
    "agentfly.training.verl.replay_buffer",
    "agentfly.training.verl.reward_manager",
)
_CLIENTS = 64
_SHEBANG = 250  # characters; Linux cuts a longer line (execve(2))


class Preloaded(NamedTuple):
    """The server's process, and the program that takes the place of the interpreter."""

    server: subprocess.Popen[bytes]
    program: Path


def start(
    environment: Mapping[str, str], folder: Path, modules: Sequence[str] = MODULES, *, log: Path
) -> Preloaded | None:
    """Start the server, and write the program that takes the place of the interpreter.

    Args:
        environment: of the server; a fork may have other variables, except those that libraries read at import.
        folder: for the program and the socket; its path must be short (unix(7): 108 bytes).
        modules: that are imported once.
        log: file for what the imports print.

    Returns:
        None where the system cannot do this.
    """
    shebang = f"#!{sys.executable} -IS"
    if sys.platform != "linux" or len(shebang) > _SHEBANG or " " in sys.executable:
        return None
    program, address = folder / "python", folder / "preload.sock"
    lines = (
        shebang,
        "import sys",
        f"sys.path.insert(0, {str(Path(client.__file__).parent)!r})",
        "import client",
        f"client.main({sys.executable!r}, {str(address)!r})",
    )
    program.write_text("\n".join([*lines, ""]), encoding="utf-8")
    program.chmod(0o700)
    with log.open("ab") as output, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(address))
        listener.listen(_CLIENTS)  # from now on clients wait until the modules are imported
        given = (str(listener.fileno()), str(program), *modules)
        server = subprocess.Popen(
            [sys.executable, "-m", "agentfly.training.launch.preload.server", *given],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    return Preloaded(server, program)
