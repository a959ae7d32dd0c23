"""A judge whose noise and biases are known, to measure what they cost: as numbers, and as an OpenAI-compatible server.

The opinion that the judge has of a result, in points of 100:

    opinion  = truth + liking * repainted + image error (one draw for each image, at all times)
    rating   = opinion + strictness (one draw a request) + error (one draw), to the nearest `grid`, from 0 to 100
    seen     = opinion + crowding * error (one draw a result) + place, to the nearest `grid`, from 0 to 100
    ranking  = results in descending order of what is seen, equal ones in one tier

`repainted` is the share of the image outside the mask that has changed, so that the judge likes an image that is
painted over; `place` falls evenly from +places / 2 at the first place of a request to -places / 2 at the last.
Strictness is common to all results of a request, so that no ranking depends on it. Errors are normal with the standard
deviations of `JudgeModel`. The server gives equal requests equal answers, as a model does at temperature 0.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agentfly.datasets import EditTask, load_tasks
from agentfly.evaluators import EditSample, ReferenceEvaluator
from agentfly.images import load_image, load_mask

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class JudgeModel:
    """A noisy judge; all in points of 100, but for the last.

    Attributes:
        image: standard deviation of its lasting error about an image.
        error: of its error about a result in one request.
        strictness: of its strictness in one request.
        liking: points for an image that is repainted everywhere outside the mask.
        places: points by which the first place of a list is better than the last.
        grid: steps in which it can tell results apart.
        crowding: factor on the error where several results are seen at once.
    """

    image: float = 5.0
    error: float = 15.0
    strictness: float = 15.0
    liking: float = 0.0
    places: float = 20.0
    grid: float = 10.0
    crowding: float = 1.0

    def opinion(self, truth: Numbers, repainted: Numbers, rng: np.random.Generator) -> Numbers:
        """Return the opinion of each image, which lasts.

        Args:
            truth: score of each, 0 to 100.
            repainted: share of each that was changed outside the mask, 0 to 1.
            rng: of the image errors.
        """
        return truth + self.liking * repainted + self.image * rng.standard_normal(truth.shape)

    def rate(self, opinion: Numbers, rng: np.random.Generator) -> Numbers:
        """Return the rating of each image, each in a request of its own.

        Args:
            opinion: of each.
            rng: of what happens in a request.
        """
        noise = self.error * rng.standard_normal(opinion.shape) + self.strictness * rng.standard_normal(opinion.shape)
        return self._told(opinion + noise)

    def rank(self, opinion: Numbers, rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
        """Return the places of the images of one request in tiers, the best first.

        Args:
            opinion: of each, in the order shown.
            rng: of what happens in a request.
        """
        places = np.linspace(0.5, -0.5, len(opinion)) * self.places
        seen = self._told(opinion + self.crowding * self.error * rng.standard_normal(opinion.shape) + places)
        return tuple(tuple(np.flatnonzero(seen == value).tolist()) for value in np.unique(seen)[::-1])

    def _told(self, points: Numbers) -> Numbers:
        return np.clip(np.rint(points / self.grid) * self.grid, 0, 100)


def repainted_share(source: Image.Image, result: Image.Image, mask: Image.Image) -> float:
    """Return the share of the pixels outside the mask that an edit has changed, 0 to 1."""
    before, after = (np.asarray(image.convert("RGB"), np.int16) for image in (source, result.resize(source.size)))
    outside = np.asarray(mask.convert("L")) < 128
    return float((np.abs(before - after).max(axis=2) > 8)[outside].mean()) if outside.any() else 0.0


def digest_of(image: Image.Image) -> str:
    """Return a name of an image's pixels."""
    return hashlib.sha256(np.asarray(image.convert("RGB")).tobytes()).hexdigest()


class SimulatedJudge:
    """Answers the requests of `VlmJudge` (scheme "simple") and of `ListwiseJudge` about the results of known tasks.

    Args:
        tasks: with target and mask; found by their source image.
        model: of the judge.
        seed: of its errors.

    Attributes:
        requests: number of requests so far, by the name of their schema.
    """

    def __init__(self, tasks: Iterable[EditTask], model: JudgeModel, seed: int = 0) -> None:
        self._tasks = {digest_of(load_image(task.images[0])): task for task in tasks}
        self._model, self._seed = model, seed
        self.requests: dict[str, int] = {}
        self._lock = threading.Lock()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the completion for a request in OpenAI's form."""
        content = request["messages"][0]["content"]
        shown = [_decoded(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
        name = request["response_format"]["json_schema"]["name"]
        with self._lock:
            self.requests[name] = self.requests.get(name, 0) + 1
        opinions = np.array([self._opinion(shown[0], result) for result in shown[1:]])
        rng = self._rng(*map(digest_of, shown), str(request.get("seed")))
        if name == "edit_ranking":
            ranking = [[place + 1 for place in tier] for tier in self._model.rank(opinions, rng)]
            said: dict[str, object] = {"notes": [""] * len(opinions), "ranking": ranking}
        else:
            said = {"feedback": "simulated", "score": int(self._model.rate(opinions, rng)[0])}
        message = {"role": "assistant", "content": json.dumps(said)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": "simulated", "choices": [choice]}

    def _opinion(self, source: Image.Image, result: Image.Image) -> float:
        task = self._tasks[digest_of(source)]
        assert task.target is not None
        assert task.mask is not None
        target, mask = load_image(task.target), load_mask(task.mask)
        sample = EditSample(task.instruction, source, result, target, mask)
        truth = asyncio.run(ReferenceEvaluator().evaluate(sample)).value
        share = repainted_share(source, result, mask)
        return float(
            self._model.opinion(np.array([truth]), np.array([share]), self._rng(digest_of(source), digest_of(result)))[
                0
            ]
        )

    def _rng(self, *names: str) -> np.random.Generator:
        whole = hashlib.sha256("\n".join([str(self._seed), *names]).encode()).digest()
        return np.random.default_rng(int.from_bytes(whole[:8], "big"))


def _decoded(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))).convert("RGB")


@contextmanager
def served(judge: SimulatedJudge) -> Iterator[str]:
    """Serve a judge on this machine until the block ends, and give its address up to /v1."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": "simulated", "object": "model", "created": 0}]})

        def do_POST(self) -> None:
            self._send(judge.answer(json.loads(self.rfile.read(int(self.headers["content-length"])))))

        def _send(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """No line for each request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


# Evaluators of the arms of `benchmarks/learning.py` that learn from the simulated judge.
JUDGED_ARMS: Mapping[str, Mapping[str, object]] = {
    "judge_pointwise": {"evaluator": "judge", "scheme": "simple"},
    "judge_listwise": {"evaluator": "listwise", "scheme": "simple"},
}


@contextmanager
def judged(arm: str, files: Sequence[Path], seed: int) -> Iterator[dict[str, object]]:
    """Serve the judge of an arm, and give the values of its run: the judge as evaluator, the truth as audit of all.

    Args:
        arm: one of `JUDGED_ARMS`; others get no judge and no values.
        files: for verl, with the tasks beside them; see `agentfly.training.recipe.verl_dataset.write_rows`.
        seed: of the judge's errors.
    """
    if arm not in JUDGED_ARMS:
        yield {}
        return
    tasks = [task for file in files for task in load_tasks(str(file.with_suffix(".tasks.parquet")))]
    with served(SimulatedJudge(tasks, JudgeModel(), seed)) as address:
        settings = {**JUDGED_ARMS[arm], "model": "simulated", "base_url": address, "api_key_env": "SIMULATED_JUDGE_KEY"}
        audit = {"evaluator": "reference", "settings": {"share": 1.0}}
        yield {"agentfly.evaluator": settings, "agentfly.audit": audit}
