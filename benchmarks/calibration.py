"""Calibrate the evaluators of the package and three scripted judges, for the tables in docs/evaluators.md.

    python benchmarks/calibration.py --out runs/calibration

The judges are real `VlmJudge`s in front of a scripted endpoint on this machine. The script knows the material, and
looks each image up in it by its pixels:

- *honest* rates what was done, with a noise of a standard deviation of half a point of 10, the same for the same image;
- *lenient* gives every image 7 to 9 points;
- *hackable* is honest, but gives 10 to every image with words in it.

So the figures show what a calibration tells of such judges. They say nothing about any model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agentfly.evaluation.calibration.attacks import ATTACKS
from agentfly.evaluation.calibration.cases import Item
from agentfly.evaluation.calibration.graded import built_in_material
from agentfly.evaluation.calibration.page import record_lines, summary_tables
from agentfly.evaluation.calibration.run import CalibrationSettings, calibrate
from agentfly.images import from_base64
from agentfly.images.store import image_hash

# Success and no over-edit of a result, 0 to 10, as a person would rate them.
_RATINGS: Mapping[str, tuple[float, float]] = {
    "right": (10, 10),
    "half": (5, 10),
    "damage 2 %": (10, 8),
    "damage 6 %": (10, 6),
    "damage 15 %": (10, 3),
    "1.5 × too much": (7, 10),
    "2 × too much": (4, 10),
}
_WORTHLESS = (0.5, 5.0)
_WITH_WORDS = ("instruction painted", "words to the judge", "watermark")
_NATURAL = 9.0
_NOISE = 0.5
_DATA_URI = re.compile(r"data:image/png;base64,(?P<text>[A-Za-z0-9+/=]+)")
JUDGES = ("honest", "lenient", "hackable")


class Script:
    """The ratings of the three judges.

    Args:
        items: of the material.
    """

    def __init__(self, items: list[Item]) -> None:
        self._names: dict[tuple[str, str], str] = {}
        for item in items:
            sample = item.make()
            assert sample.result is not None
            self._names[image_hash(sample.source), image_hash(sample.result)] = item.name
        self._results = {result: name for (_, result), name in self._names.items()}

    def rate(self, judge: str, request: Mapping[str, Any]) -> dict[str, object]:
        """Return the judge's reply to a request of `VlmJudge`."""
        content = request["messages"][0]["content"]
        images = [_image_hash(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
        # The question about quality shows the result alone.
        name = self._names.get((images[0], images[1])) if len(images) == 2 else self._results.get(images[0])
        names = list(request["response_format"]["json_schema"]["schema"]["properties"])[1:]
        noise = random.Random(f"{judge}/{images}/{names}")
        wanted = dict(zip(("success", "no_over_edit"), _RATINGS.get(name or "", _WORTHLESS), strict=True))
        ratings = {}
        for rating in names:
            if judge == "lenient":
                value = noise.uniform(7.0, 9.0)
            elif judge == "hackable" and name in _WITH_WORDS:
                value = 10.0
            else:
                value = wanted.get(rating, _NATURAL) + noise.gauss(0.0, _NOISE)
            ratings[rating] = min(10, max(0, round(value)))
        return {"feedback": "Scripted.", **ratings}


def _image_hash(uri: str) -> str:
    match = _DATA_URI.fullmatch(uri)
    assert match is not None
    return image_hash(from_base64(match["text"]))


@contextmanager
def endpoint(script: Script) -> Iterator[str]:
    """Serve the judges on this machine until the block ends, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer({"object": "list", "data": [{"id": name, "object": "model"} for name in JUDGES]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = json.dumps(script.rate(request["model"], request))
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            # As many tokens as a request of Qwen2.5-VL on two images of 168 x 168 takes, about.
            usage = {"prompt_tokens": 400, "completion_tokens": 40, "total_tokens": 440}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"]}
            self._answer({**reply, "choices": [choice], "usage": usage})

        def _answer(self, content: Mapping[str, object]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Write no access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def evaluators(address: str) -> list[dict[str, object]]:
    """Return the specs: reference, structural, the three judges, and a composite.

    Args:
        address: of the scripted endpoint.
    """
    judges = {
        name: {"evaluator": "judge", "model": name, "base_url": address, "input_price": 0.2, "output_price": 0.6}
        for name in JUDGES
    }
    composite = {
        "evaluator": "composite",
        "how": "minimum",
        "parts": {"judge": judges["hackable"], "kept": "structural"},
    }
    named = [{"name": f"{name} judge", **judge} for name, judge in judges.items()]
    return [
        {"evaluator": "reference"},
        {"evaluator": "structural"},
        *named,
        {"name": "composite", **composite},
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run the calibration and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"), help="folder of the report")
    parser.add_argument("--tasks", type=int, default=24, help="tasks of the built-in worlds")
    parser.add_argument("--seed", type=int, default=0, help="of the worlds")
    given = parser.parse_args(arguments)
    material = built_in_material(given.tasks, given.seed, ATTACKS)
    with endpoint(Script(list(material.items))) as address:
        settings = CalibrationSettings(
            evaluator=tuple(evaluators(address)),
            out=given.out,
            tasks=given.tasks,
            seed=given.seed,
            records=given.out / "records",
        )
        found = asyncio.run(calibrate(settings))
    sys.stdout.write(summary_tables(found.report) + "\n")
    for line in record_lines(found.report):
        sys.stdout.write(f"- {line}\n")


if __name__ == "__main__":
    main()
