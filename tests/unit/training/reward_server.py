"""An evaluator server on this machine with a tiny learned reward, which notes what it is asked for and when."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

from agentfly.evaluators import EditSample, Evaluator, Score
from agentfly.evaluators.http import HttpEvaluator, HttpEvaluatorSettings
from agentfly.evaluators.learned import LearnedEvaluator, LearnedSettings, RewardModel
from agentfly.serving.evaluator_server import create_app
from tests.unit.serving.image_server.running import wait_for

GREY = Image.new("RGB", (8, 8), (90, 90, 90))
SAMPLES = [EditSample("brighter", GREY, Image.new("RGB", (8, 8), (level,) * 3)) for level in (10, 200, 91)]


class Brightness(RewardModel):
    """Scores by a layer with random weights, so that equal scores mean equal weights."""

    def load(self, device: str) -> torch.nn.Module:
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Sigmoid()).to(device)

    def score(self, model: torch.nn.Module, samples: Sequence[EditSample]) -> list[Score]:
        colours = torch.tensor(np.array([np.asarray(sample.result).mean((0, 1)) / 255 for sample in samples])).float()
        with torch.no_grad():
            return [Score(100 * value) for value in model(colours)[:, 0].tolist()]


def brightness() -> LearnedEvaluator:
    """Return the tiny reward as an evaluator."""
    return LearnedEvaluator(Brightness(LearnedSettings(model="brightness", device="cpu")))


@dataclass
class RewardServer:
    """A running server.

    Attributes:
        base_url: its address.
        calls: paths and statuses of the requests so far, in order, but for those for its health.
        refusals: statuses by path, which are answered in place of the evaluator's own answer.
        before: by path, awaited before the answer.
    """

    base_url: str = ""
    calls: list[tuple[str, int]] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    before: dict[str, Callable[[], Awaitable[object]]] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """The last part of the path of each call: "evaluate", "sleep" or "wake"."""
        return [path.rpartition("/")[2] for path, _ in self.calls]

    @property
    def spec(self) -> dict[str, object]:
        """The spec of an evaluator that asks the server."""
        return {"evaluator": "http", "base_url": self.base_url}

    def client(self) -> HttpEvaluator:
        """Return an evaluator that asks the server."""
        return HttpEvaluator(HttpEvaluatorSettings(base_url=self.base_url))


def _watched(app: FastAPI, server: RewardServer) -> FastAPI:
    @app.middleware("http")
    async def watch(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path
        if path in server.before:
            await server.before[path]()
        if path in server.refusals:
            reply: Response = JSONResponse({"error": {"message": "refused"}}, server.refusals[path])
        else:
            reply = await answer(request)
        if path != "/health":
            server.calls.append((path, reply.status_code))
        return reply

    return app


@contextmanager
def reward_server(evaluator: Evaluator | None = None) -> Iterator[RewardServer]:
    """Serve an evaluator until the block ends.

    Args:
        evaluator: the tiny reward when None.
    """
    served = RewardServer()
    app = _watched(create_app(evaluator or brightness()), served)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    served.base_url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.should_exit = True
        thread.join(60)
