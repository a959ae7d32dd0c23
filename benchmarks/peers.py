"""Rollouts of tool calls with images, next to other projects: makespan, processor time, memory, faults survived.

    python benchmarks/peers.py [--chains 64] [--turns 6] [--size 256] [--rounds 3] [--quick] [--envs FOLDER]

Every loop plays the same chains against one scripted OpenAI-compatible server in a process of its own: in each turn
but the last the policy asks for an edit, the tool paints on the image, and the next request shows it. The waits of
model and tool are drawn once and the same for all. Each chain could run alone, so the slowest one is the bound. Each
loop runs in a fresh process of its own environment, with pinned versions, which is made on the first run; rounds take
turns, and ratios are taken round by round. A last run meets faults: HTTP 500, a connection that is cut in the middle of
an answer, arguments of a call that are no JSON, and a tool that raises.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent / "peer_loops"))
from loop_work import Job, call_server

LOOPS = Path(__file__).resolve().parent / "peer_loops"
OURS = "agentfly"
# Seconds, for an installation and for a run.
INSTALL_LIMIT, RUN_LIMIT = 900.0, 1800.0
_LONGEST_REASON = 200
NO_FAULT = "no fault"


class Unavailable(Exception):
    """A peer cannot run here; the message is the reason."""


@dataclass(frozen=True)
class Peer:
    """A loop, and where it runs.

    Attributes:
        name: in the tables.
        script: of its process, in `peer_loops`; empty for one that cannot run, with the reason in `beside`.
        requirements: pinned, of its environment; none for a loop that runs in this one.
        beside: what the loop does beside the chains.
        keeps: whether the loop writes its chains to a folder.
    """

    name: str
    script: str
    requirements: tuple[str, ...] = ()
    beside: str = ""
    keeps: bool = False


PEERS = (
    Peer("plain loop", "loop_plain.py", beside="a list of messages; two retries by OpenAI's client"),
    Peer(
        "verifiers 0.4.0",
        "loop_verifiers.py",
        ("verifiers==0.4.0", "openai==2.54.0", "pillow==13.0.0"),
        "a trace of every request by an endpoint of its own, rewards, limits; token-exact with vLLM for training",
    ),
    Peer(
        "smolagents 1.26.0",
        "loop_smolagents.py",
        ("smolagents[openai]==1.26.0", "openai==3.52.0", "pillow==13.0.0"),
        "steps in memory, a log on the console (off here), errors shown to the model; a thread for each chain",
    ),
    Peer(
        "TRL 1.16.0",
        "",
        beside="not run: its tool loop is a method of GRPOTrainer, which holds the model; the worker of its "
        "asynchronous trainer sends token ids to vLLM, and makes text of all that a tool returns, images too",
    ),
    Peer(
        OURS,
        "loop_agentfly.py",
        beside="trajectories with images by content, limits, retries, errors shown to the model; token-exact with vLLM",
    ),
    Peer("agentfly, log_dir", "loop_agentfly.py", beside="the same, with trajectories and images on disk", keeps=True),
)


@dataclass(frozen=True)
class Figures:
    """One run of a loop.

    Attributes:
        finished: chains that reached their end, of `chains`.
        over_bound: share of the bound by which the run was slower.
        cpu_ms: processor milliseconds a turn, all threads.
        peak_mib: largest resident size of the process, its imports included.
        requests: that the server got.
        least_images: images in the last request of a chain, the least of all chains.
    """

    chains: int
    finished: int
    seconds: float
    over_bound: float
    cpu_ms: float
    peak_mib: float
    requests: int
    least_images: int


@dataclass
class Row:
    """All runs of a peer.

    Attributes:
        reason: why the peer did not run, or did not go on; empty if it did.
        rounds: without faults.
        faults: the run with faults, where there was one.
        lost_to: faults that the chains met that did not finish, and how many of them met none.
    """

    peer: Peer
    reason: str = ""
    rounds: list[Figures] = field(default_factory=list)
    faults: Figures | None = None
    lost_to: Mapping[str, int] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median of a figure over the rounds."""
        return float(statistics.median(getattr(figures, name) for figures in self.rounds))

    def ratio(self, name: str, other: Row) -> float | None:
        """Return the median over the rounds of a figure to that of another row; None where either did not run."""
        pairs = list(zip(self.rounds, other.rounds, strict=False))
        return statistics.median(getattr(a, name) / getattr(b, name) for a, b in pairs) if pairs else None


def python_of(peer: Peer, envs: Path) -> Path:
    """Return the Python of a peer's environment, which is made unless it is there.

    Args:
        peer: with its requirements.
        envs: folder of the environments.

    Raises:
        Unavailable: the peer cannot run, or its environment cannot be made.
    """
    if not peer.script:
        raise Unavailable(peer.beside)
    if not peer.requirements:
        return Path(sys.executable)
    uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if uv is None:
        raise Unavailable("uv is not installed: pip install uv")
    folder = envs.absolute() / peer.script.removesuffix(".py")
    python, done = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(peer.requirements)
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return python
    for command in (
        [uv, "venv", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--python", str(python), *peer.requirements],
    ):
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"its environment was not installed within {INSTALL_LIMIT:g} s") from None
        if made.returncode != 0:
            raise Unavailable(f"its environment cannot be installed: {shortened(made.stderr)}")
    done.write_text(wanted, encoding="utf-8")
    return python


def shortened(text: str) -> str:
    """Return the end of what a program wrote, in one line."""
    return " ".join(text.split())[-_LONGEST_REASON:] or "it says nothing"


@contextmanager
def scripted_server() -> Iterator[str]:
    """A process of the scripted server, ready; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, str(LOOPS / "loop_server.py"), str(port)])
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                call_server(url)
                break
            except urllib.error.URLError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the scripted server did not start")
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def play(peer: Peer, python: Path, job: Job) -> tuple[Figures, set[int]]:
    """Run a job in a fresh process of a peer; return its figures, and the chains that got their last turn.

    Args:
        peer: the loop.
        python: of its environment.
        job: what to play.

    Raises:
        Unavailable: the process failed.
    """
    with_ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OPENAI_API_KEY")}
    try:
        done = subprocess.run(
            [str(python), str(LOOPS / peer.script), json.dumps(asdict(job))],
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT,
            env={**with_ours, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"it did not end within {RUN_LIMIT:g} s") from None
    if done.returncode != 0:
        raise Unavailable(f"it ended with {done.returncode}: {shortened(done.stderr)}")
    own, seen = json.loads(done.stdout.splitlines()[-1]), call_server(f"{job.url}/{job.run}")
    figures = Figures(
        chains=job.chains,
        finished=own["finished"],
        seconds=own["seconds"],
        over_bound=own["seconds"] / job.plan.bound() - 1,
        cpu_ms=own["cpu_seconds"] * 1e3 / (job.chains * job.turns),
        peak_mib=own["peak_mib"],
        requests=seen["requests"],
        least_images=seen["least_images"],
    )
    return figures, set(seen["answered"])


def compare(peers: Sequence[Peer], job: Job, faulty: Job, rounds: int, envs: Path) -> list[Row]:
    """Run all peers in turn, `rounds` times, then each with faults.

    Args:
        peers: to compare.
        job: without faults; its `run` and `folder` begin the names of each run.
        faulty: with faults.
        rounds: of the job without faults.
        envs: folder of the environments.
    """
    rows, pythons = [Row(peer) for peer in peers], {}
    for row in rows:
        try:
            pythons[row.peer.name] = python_of(row.peer, envs)
        except Unavailable as fault:
            row.reason = str(fault)
    for number in range(rounds + 1):
        # The order turns, too: no loop always comes after the same other.
        start = number % len(rows)
        for row in [*rows[start:], *rows[:start]]:
            if row.reason:
                continue
            name = f"{row.peer.script.removesuffix('.py')}{'-kept' * row.peer.keeps}-{number}"
            this = replace(job if number < rounds else faulty, run=name, folder=job.folder * row.peer.keeps)
            try:
                figures, answered = play(row.peer, pythons[row.peer.name], this)
            except Unavailable as fault:
                row.reason = str(fault)
                continue
            if number < rounds:
                row.rounds.append(figures)
            else:
                row.faults = figures
                lost = set(range(this.chains)) - answered
                met = {chain for chain, _ in this.faulty}
                lost_to = Counter(kind for (chain, _), kind in this.faulty.items() if chain in lost)
                row.lost_to = dict(lost_to + Counter({NO_FAULT: len(lost - met)}))
    return rows


def show(console: Console, rows: Sequence[Row], job: Job) -> None:
    """Print the table: medians of the rounds, and ratios to our own loop."""
    ours = next((row for row in rows if row.peer.name == OURS), Row(PEERS[-1]))
    names = (
        "loop",
        "over bound",
        "time to ours",
        "CPU ms a turn",
        "to ours",
        "peak MiB",
        "finished with faults",
        "beside",
    )
    table = Table(*names, caption="finished: of the chains that meet faults")
    for row in rows:
        if not row.rounds:
            table.add_row(row.peer.name, *["-"] * 6, row.reason)
            continue
        ratios = (row.ratio(name, ours) for name in ("seconds", "cpu_ms"))
        time_ratio, cpu_ratio = ("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        survived = "-" if row.faults is None else f"{row.faults.finished} of {row.faults.chains}"
        lost = ", ".join(f"{count} {kind}" for kind, count in row.lost_to.items())
        table.add_row(
            row.peer.name,
            f"{row.median('over_bound'):.1%}",
            time_ratio,
            f"{row.median('cpu_ms'):.2f}",
            cpu_ratio,
            f"{row.median('peak_mib'):.0f}",
            survived + (f" (lost: {lost})" if lost else ""),
            row.peer.beside + (f"; {row.reason}" if row.reason else ""),
        )
    console.print(table)
    sizes = f"{job.chains} chains of {job.turns} turns, images of {job.size} x {job.size}"
    console.print(f"{sizes}; bound {job.plan.bound():.2f} s; medians of {max(len(r.rounds) for r in rows)} rounds")


def as_json(rows: Sequence[Row], job: Job, faulty: Job, load: float) -> dict[str, Any]:
    """Return all figures with the machine that they are of."""
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores",
        "load_before": load,
        "bound": job.plan.bound(),
        "job": asdict(replace(job, url="")),
        "faults": {"share": faulty.faults, "chains": faulty.chains, "kinds": dict(Counter(faulty.faulty.values()))},
        "peers": [asdict(row) for row in rows],
    }


def main() -> None:
    """Compare, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chains", type=int, default=64, help="at the same time")
    parser.add_argument("--turns", type=int, default=6, help="of each chain; all but the last ask for an edit")
    parser.add_argument("--size", type=int, default=256, help="side of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faults", type=float, default=0.01, help="share of turns that meet each kind of fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", default="", help="names, or beginnings of names, by commas; all by default")
    parser.add_argument("--quick", action="store_true", help="a few seconds for each, to see that it works")
    parser.add_argument("--envs", type=Path, help="folder of the environments; beside the output by default")
    parser.add_argument("--json", type=Path, default=Path("outputs/peers.json"), help="file for the figures")
    given = parser.parse_args()
    names = tuple(given.peers.split(","))
    peers = [peer for peer in PEERS if peer.name.startswith(names)]
    if not peers:
        parser.error(f"--peers={given.peers}: there are {', '.join(peer.name for peer in PEERS)}")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    with scripted_server() as url:
        folder = str(given.json.parent.absolute() / f"peers-{int(time.time())}")
        job = Job(url, "", given.chains, given.turns, given.size, seed=given.seed, folder=folder)
        rounds = given.rounds
        if given.quick:
            job, rounds = replace(job, chains=4, turns=3, size=64, model_seconds=0.02, tool_seconds=0.01), 1
        # Enough turns for some faults of each kind; waits and sizes do not matter here.
        faulty = replace(job, chains=4 * job.chains, size=64, model_seconds=0.02, tool_seconds=0.01)
        faulty = replace(faulty, faults=given.faults)
        rows = compare(peers, job, faulty, rounds, given.envs or given.json.parent / "peer_envs")
        shutil.rmtree(folder, ignore_errors=True)
    show(Console(width=max(160, Console().width)), rows, job)
    given.json.write_text(json.dumps(as_json(rows, job, faulty, load), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
