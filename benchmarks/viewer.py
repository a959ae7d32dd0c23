"""The viewer on large runs: how long it takes to follow one, to show its first rows, and to open a long log.

    python benchmarks/viewer.py [--quick] [--json FILE]

Every chain has images. A run of 50,000 chains is written, one of 1,000 chains of 100 turns, and one whose log has
127 MB; this takes a minute and 1 GB of disk. The application is asked in this process, without a network. "Cold" is a
run that no viewer has indexed yet; its files are in the memory of the system, as those of a run that goes on are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from agentfly.agents.trajectory_file import FILE_NAME  # noqa: E402
from agentfly.viewer.command import find_runs  # noqa: E402
from agentfly.viewer.index import Filters  # noqa: E402
from agentfly.viewer.opened import OpenRun, Viewer  # noqa: E402
from agentfly.viewer.runs.folder import HOME  # noqa: E402
from agentfly.viewer.server import create_app  # noqa: E402
from agentfly.viewer.thumbnails import thumbnail_bytes  # noqa: E402
from agentfly.viewer.web.render import STATIC  # noqa: E402
from tests.viewer_runs import log_of_bytes, long_chains, many_chains  # noqa: E402

# A load of the machine before the run, by core, above which times mean little.
BUSY = 0.5
ADDRESS = "http://127.0.0.1:8700"


@dataclass(frozen=True)
class Plan:
    """The sizes.

    Attributes:
        chains: of the run whose first rows are shown.
        long, turns: chains and their turns, of the run that is followed.
        log: bytes of the log that is opened.
        repeats: of each short measurement; its median counts.
        side: width and height of the image of which a thumbnail is made.
    """

    chains: int = 50_000
    long: int = 1_000
    turns: int = 100
    log: int = 127_000_000
    repeats: int = 15
    side: int = 1024


QUICK = Plan(chains=400, long=10, turns=10, log=400_000, repeats=3, side=128)


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        name: what was measured.
        value: in `unit`.
        unit: "ms", "kB" or "s".
        aim: the largest value that is good enough; None where there is none.
    """

    name: str
    value: float
    unit: str
    aim: float | None = None

    @property
    def reached(self) -> bool:
        """The aim was reached, or there is none."""
        return self.aim is None or self.value <= self.aim


@contextmanager
def client(run: Path) -> Iterator[TestClient]:
    """Give a client of a new viewer of a run."""
    with TestClient(create_app(Viewer(find_runs([run]))), base_url=ADDRESS) as found:
        yield found


def seconds(act: Callable[[], object]) -> float:
    """Return the time that something takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def get(browser: TestClient, path: str) -> str:
    """Return a page.

    Raises:
        RuntimeError: the answer is an error.
    """
    answer = browser.get(path)
    if answer.status_code != 200:
        raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:300]}")
    return answer.text


def follow(plan: Plan, run: Path) -> list[Figure]:
    """Measure what it takes to show a chain that was appended, and to see that nothing was."""
    file = run / FILE_NAME
    with file.open("rb") as lines:
        line = lines.readline()
    identity = json.loads(line)["trajectory"]["id"].encode()
    opened = OpenRun(find_runs([run])[0])
    opened.index.refresh()
    new, idle = [], []
    for number in range(plan.repeats):
        with file.open("ab") as end:
            end.write(line.replace(identity, b"new-%d" % number))
        new.append(seconds(lambda: (opened.up_to_date(1.0), opened.index.rows(Filters()))))
        idle.append(seconds(lambda: (opened.up_to_date(1.0), opened.index.rows(Filters()))))
    opened.close()
    what = f"{plan.long:,} chains x {plan.turns} turns"
    return [
        Figure(f"refresh of {what}, one chain new", 1000 * statistics.median(new), "ms", 16.0),
        Figure(f"refresh of {what}, nothing new", 1000 * statistics.median(idle), "ms", 16.0),
    ]


def first_rows(plan: Plan, run: Path) -> list[Figure]:
    """Measure the first page of the table, before there is an index and with one."""
    page = f"/runs/{run.name}/chains"
    cold = []
    for _ in range(min(3, plan.repeats)):
        shutil.rmtree(run / HOME, ignore_errors=True)
        with client(run) as browser:
            cold.append(seconds(lambda: get(browser, page)))
    opened = OpenRun(find_runs([run])[0])
    rest = seconds(lambda: opened.index.refresh())
    opened.close()
    with client(run) as browser:
        first = seconds(lambda: get(browser, page))
        warm = [seconds(lambda: get(browser, page)) for _ in range(plan.repeats)]
        ordered = [seconds(lambda: get(browser, f"{page}?sort=score&down=1")) for _ in range(plan.repeats)]
        found = [seconds(lambda: get(browser, f"{page}?text=circle")) for _ in range(plan.repeats)]
    what = f"{plan.chains:,} chains"
    return [
        Figure(f"first rows of {what}, no index yet", 1000 * statistics.median(cold), "ms", 1000.0),
        Figure(f"the rest of the index of {what}", rest, "s"),
        Figure(f"first rows of {what}, indexed, new viewer", 1000 * first, "ms", 100.0),
        Figure(f"first rows of {what}, indexed", 1000 * statistics.median(warm), "ms", 100.0),
        Figure(f"rows of {what} by score", 1000 * statistics.median(ordered), "ms"),
        Figure(f"rows of {what} with a word", 1000 * statistics.median(found), "ms"),
    ]


def open_log(plan: Plan, run: Path) -> list[Figure]:
    """Measure a long log from nothing to all rows and one chain in full."""
    shutil.rmtree(run / HOME, ignore_errors=True)
    with client(run) as browser:

        def read() -> None:
            while not json.loads(get(browser, f"/runs/{run.name}/revision"))["complete"]:
                time.sleep(0.01)
            get(browser, f"/runs/{run.name}/chains")
            get(browser, f"/runs/{run.name}/chains/1")

        whole = seconds(read)
        chain = [seconds(lambda: get(browser, f"/runs/{run.name}/chains/1")) for _ in range(plan.repeats)]
    return [
        Figure(f"opening a log of {plan.log / 1e6:g} MB, all of it", whole, "s", 4.0),
        Figure(f"the page of a chain of {plan.turns} turns", 1000 * statistics.median(chain), "ms"),
    ]


def weight(html: str) -> int:
    """Return the bytes of a page with its style sheets, scripts, and what these import; without images."""
    names, total = set(re.findall(r"/static/([\w.-]+\.(?:css|js))", html)), len(html.encode())
    done = set[str]()
    while names - done:
        name = min(names - done)
        done.add(name)
        text = (STATIC / name).read_text(encoding="utf-8")
        total += len(text.encode())
        names.update(re.findall(r'from "\./([\w.-]+\.js)"', text))
    return total


def weigh(long: Path, many: Path) -> list[Figure]:
    """Weigh pages without their images."""
    figures = []
    for run, path in ((many, ""), (many, "chains"), (many, "chains?size=200"), (many, "groups"), (long, "chains/1")):
        with client(run) as browser:
            size = weight(get(browser, f"/runs/{run.name}/{path}"))
        name = {"": "overview", "chains/1": "chain of many turns"}.get(path, path)
        figures.append(Figure(f"page without images: {name}", size / 1000, "kB", 300.0))
    return figures


def thumbnails(plan: Plan) -> list[Figure]:
    """Make thumbnails of noise, which is the hardest to compress, and of a photograph-like image."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (plan.side, plan.side, 3), dtype=np.uint8))
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    photo = small.resize((plan.side, plan.side), Image.Resampling.BICUBIC)
    figures = []
    for name, image in (("noise", noise), ("a photograph", photo)):
        size = len(thumbnail_bytes(image)) / 1000
        taken = statistics.median(seconds(lambda: thumbnail_bytes(image)) for _ in range(plan.repeats))  # noqa: B023
        figures.append(Figure(f"thumbnail of {name}", size, "kB", 8.0))
        figures.append(Figure(f"making it from {plan.side} x {plan.side}", 1000 * taken, "ms"))
    return figures


def measure(plan: Plan, folder: Path) -> list[Figure]:
    """Write the runs and measure everything."""
    many, long = many_chains(folder / "many", plan.chains), long_chains(folder / "long", plan.long, plan.turns)
    log = log_of_bytes(folder / "log", plan.log)
    return [
        *follow(plan, long),
        *first_rows(plan, many),
        *open_log(plan, log),
        *weigh(log, many),
        *thumbnails(plan),
    ]


def show(console: Console, figures: list[Figure], busy: bool) -> None:
    """Print the table."""
    table = Table("", "measured", "aim", "")
    for figure in figures:
        aim = "" if figure.aim is None else f"{figure.aim:g} {figure.unit}"
        verdict = "" if figure.aim is None else "reached" if figure.reached else "missed"
        table.add_row(figure.name, f"{figure.value:.3g} {figure.unit}", aim, verdict)
    console.print(table)
    if busy:
        console.print("the machine was busy with other work: run it again when it is idle")


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small runs, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    plan = QUICK if arguments.quick else Plan()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(plan, Path(folder))
    busy = load > BUSY * (os.cpu_count() or 1)
    show(Console(), figures, busy)
    if arguments.json:
        found = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load_before": load,
            "busy": busy,
            "plan": asdict(plan),
            "figures": [{**asdict(figure), "reached": figure.reached} for figure in figures],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
