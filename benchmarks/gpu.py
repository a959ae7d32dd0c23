"""One GPU in minutes: policy, engines, image server, and rollouts and a training step where they are installed.

    python benchmarks/gpu.py [--parts policy,engines,server,rollouts,step] [--minutes 8] [--json FILE]

Models have their real sizes and random weights, so nothing is downloaded. It runs from a checkout with torch and
transformers alone; a part whose packages are missing is skipped, and the table says so. Times are medians after one
call that is not counted; memory is the most that torch allocated meanwhile. `--tiny` runs the same code with small
models, also on a CPU: it shows that everything runs, and no speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from gpu_bench import Bench, Row  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

Part = Callable[[Bench], None]


def policy(bench: Bench) -> None:
    """Measure the codec, log-probs and updates of the policies."""
    from gpu_policy import policy_part

    policy_part(bench)


def engines(bench: Bench) -> None:
    """Measure the diffusion editor, the detector and the segmenter."""
    from gpu_engines import engines_part

    engines_part(bench)


def server(bench: Bench) -> None:
    """Measure the image server against direct calls."""
    from gpu_engines import server_part

    server_part(bench)


def rollouts(bench: Bench) -> None:
    """Measure generation by vLLM."""
    from gpu_runs import rollouts_part

    rollouts_part(bench)


def step(bench: Bench) -> None:
    """Measure steps of verl."""
    from gpu_runs import step_part

    step_part(bench)


# Each part with the packages that it needs beside torch and transformers.
PARTS: Mapping[str, tuple[Part, tuple[str, ...]]] = {
    "policy": (policy, ("peft",)),
    "engines": (engines, ("diffusers",)),
    "server": (server, ("diffusers", "uvicorn", "fastapi")),
    "rollouts": (rollouts, ("vllm",)),
    "step": (step, ("vllm", "verl", "ray")),
}


def main() -> None:
    """Measure the parts and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="names with commas")
    parser.add_argument("--minutes", type=float, default=8, help="no work begins after this time")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models, to see that everything runs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file, row by row")
    given = parser.parse_args()
    names = given.parts.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU: use --device cpu --tiny to see that everything runs")
    console = Console(width=160)
    begun = time.monotonic()

    def on_row(row: Row) -> None:
        console.print(f"{time.monotonic() - begun:5.0f} s  {line(row)}", highlight=False, markup=False)
        if given.json:
            write(given.json, bench.rows)

    bench = Bench(given.device, tiny=given.tiny, seconds=60 * given.minutes, on_row=on_row)
    for name in names:
        bench.part = name
        work, packages = PARTS[name]
        missing = [package for package in packages if find_spec(package) is None]
        if missing:
            bench.skip("all of it", f"{' and '.join(missing)} not installed")
            continue
        work(bench)
    console.print(table(bench.rows))
    sys.exit(any(row.failed for row in bench.rows))


def machine() -> dict[str, object]:
    """Return the names and versions of what was measured on."""
    found: dict[str, object] = {"cores": os.cpu_count(), "python": platform.python_version()}
    if torch.cuda.is_available():
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    for package in ("torch", "transformers", "diffusers", "peft", "vllm", "verl"):
        if find_spec(package) is not None:
            found[package] = metadata.version(package)
    return found


def write(file: Path, rows: list[Row]) -> None:
    """Write the rows so far, so that a run that is cut short is not lost."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1))


def line(row: Row) -> str:
    """Return a row as one line of text."""
    seconds = "" if row.seconds is None else f"{row.seconds:.4g} s"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in row.figures.items())
    return "  ".join(part for part in (row.part, row.model, row.what, seconds, figures, row.note) if part)


def table(rows: list[Row]) -> Table:
    """Return all rows as a table."""
    shown = Table("part", "model", "what", "seconds", "a second", "peak GiB", "further")
    for row in rows:
        figures = dict(row.figures)
        peak = figures.pop("peak_gib", None)
        tokens, images = figures.pop("tokens_per_second", None), figures.pop("images_per_second", None)
        rate = f"{tokens:,.0f} tokens" if tokens is not None else "" if images is None else f"{images:.3g} images"
        further = row.note or ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        seconds = "" if row.seconds is None else f"{row.seconds:.4g}"
        shown.add_row(row.part, row.model, row.what, seconds, rate, "" if peak is None else f"{peak:.1f}", further)
    return shown


if __name__ == "__main__":
    main()
