"""Make a loop from its settings."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import SecretStr

from agentfly.agents.llm_backends import ClientBackend, ClientConfig
from agentfly.evaluators import Evaluator, Rubric, close_evaluator, load_rubric, make_evaluator
from agentfly.systems.refinement.generators import make_generator
from agentfly.systems.refinement.loop import RefinementLoop
from agentfly.systems.refinement.prompter import ChatPrompter, FeedbackPrompter, NewPrompter, ResponsesPrompter
from agentfly.systems.refinement.responses import ResponsesClient
from agentfly.systems.refinement.settings import RefinementSettings

OPENAI_URL = "https://api.openai.com/v1"

Close = Callable[[], Awaitable[None]]


def make_loop(settings: RefinementSettings) -> tuple[RefinementLoop, Close]:
    """The loop of settings, and what frees all that it holds.

    Raises:
        ConfigError: a name or a setting is wrong.
        MissingExtraError: a package that the generator needs is not installed.
    """
    rubric = load_rubric(settings.rubric) if settings.rubric is not None else None
    generator, evaluator = make_generator(settings), make_judge(settings)
    new_prompter, close_prompter = make_prompter(settings, rubric)
    loop = RefinementLoop(
        generator,
        evaluator,
        new_prompter,
        max_iterations=settings.max_iterations,
        score_threshold=settings.score_threshold,
    )

    async def close() -> None:
        await generator.close()
        await close_prompter()
        await close_evaluator(evaluator)

    return loop, close


def make_judge(settings: RefinementSettings) -> Evaluator:
    """The evaluator of settings: their own, or a vision-language model that judges images by their prompt."""
    if settings.evaluator is not None:
        return make_evaluator(settings.evaluator)
    spec: dict[str, Any] = {
        "evaluator": "judge",
        "model": settings.judge_model or settings.model,
        "base_url": settings.judge_base_url or settings.base_url,
        "api_key_env": settings.api_key_env,
        "scheme": "generation",
        "rubric": settings.rubric,
        "max_tokens": 4096,
        "timeout": settings.timeout,
        "attempts": settings.retries + 1,
    }
    return make_evaluator(spec)


def make_prompter(settings: RefinementSettings, rubric: Rubric | None) -> tuple[NewPrompter, Close]:
    """What begins a conversation for each run, and what closes the connections that all of them share."""
    model, url = settings.prompter_model or settings.model, settings.prompter_base_url or settings.base_url
    kind = settings.prompter
    if kind == "auto":
        # An endpoint that draws through the Responses API speaks it to the prompter as well.
        same = settings.generator == "openai" and settings.prompter_base_url is None
        kind = "responses" if url is None or same else "chat"
    if kind == "feedback":
        return FeedbackPrompter, _nothing
    if kind == "responses":
        client = ResponsesClient(model, settings.endpoint(url))
        return lambda: ResponsesPrompter(client, rubric), client.close
    key = os.environ.get(settings.api_key_env)
    config = ClientConfig(
        base_url=url or OPENAI_URL,
        api_key=SecretStr(key) if key else None,
        timeout=settings.timeout,
        max_retries=settings.retries,
    )
    backend = ClientBackend(model, config)
    return lambda: ChatPrompter(backend, rubric), backend.close


async def _nothing() -> None:
    """There is nothing to close."""
