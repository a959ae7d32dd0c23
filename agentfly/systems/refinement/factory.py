"""Make a loop, and each of its parts, from `RefinementSettings`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import SecretStr

from agentfly.agents.llm_backends import ClientBackend, ClientConfig
from agentfly.evaluators import Evaluator, Rubric, close_evaluator, load_rubric, make_evaluator
from agentfly.systems.generators import ImageGenerator
from agentfly.systems.generators.responses import ResponsesClient
from agentfly.systems.refinement.loop import RefinementLoop
from agentfly.systems.refinement.prompter import ChatPrompter, FeedbackPrompter, NewPrompter, ResponsesPrompter
from agentfly.systems.refinement.settings import RefinementSettings

OPENAI_URL = "https://api.openai.com/v1"

Close = Callable[[], Awaitable[None]]


def make_loop(settings: RefinementSettings) -> tuple[RefinementLoop, Close]:
    """Make a loop; return it with a function that frees its connections and models.

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
        if close_prompter is not None:
            await close_prompter()
        await close_evaluator(evaluator)

    return loop, close


def make_generator(settings: RefinementSettings) -> ImageGenerator:
    """Make the generator that the settings name; each module is imported when it is chosen.

    Raises:
        ConfigError: a setting of it is wrong; `MissingExtraError`: a package that it needs is not installed.
    """
    if settings.generator == "openai":
        from agentfly.systems.generators.openai import OpenAIGenerator

        model = {"model": settings.image_model} if settings.image_model else {}
        options = {"quality": settings.quality, "size": settings.size, "output_format": settings.format, **model}
        options["background"] = settings.wanted_background
        return OpenAIGenerator(settings.model, settings.endpoint(settings.base_url), options)
    if settings.generator == "server":
        from agentfly.systems.generators.server import ServerGenerator

        return ServerGenerator(
            settings.endpoint(settings.server_url),
            "--server-url (server_url)",
            size=None if settings.size == "auto" else settings.size,
            steps=settings.steps,
            seed=settings.seed,
            fields=settings.server_fields,
        )
    if settings.generator == "diffusers":
        from agentfly.systems.generators.diffusers import DiffusersGenerator
        from agentfly.vision.diffusion import WeightSettings

        return DiffusersGenerator(
            WeightSettings(model=settings.diffusers_model, device=settings.device),
            name=settings.diffusers_model,
            size=settings.pixels,
            steps=settings.steps,
            strength=settings.strength,
            seed=settings.seed,
            max_batch=1,
        )
    from agentfly.systems.generators.classical import ClassicalGenerator

    return ClassicalGenerator(settings.pixels, transparent=settings.wanted_background == "transparent")


def make_judge(settings: RefinementSettings) -> Evaluator:
    """Make the evaluator of the settings, or a vision-language model that judges images by their prompt."""
    if settings.evaluator is not None:
        return make_evaluator(settings.evaluator)
    endpoint = settings.endpoint(settings.judge_base_url or settings.base_url)
    spec: dict[str, object] = {
        "evaluator": "judge",
        "model": settings.judge_model or settings.model,
        "base_url": endpoint.base_url,
        "api_key_env": settings.api_key_env,
        "scheme": "generation",
        "rubric": settings.rubric,
        "max_tokens": 4096,
        "timeout": settings.timeout,
        "attempts": settings.retries + 1,
    }
    return make_evaluator(spec)


def make_prompter(settings: RefinementSettings, rubric: Rubric | None) -> tuple[NewPrompter, Close | None]:
    """Return a function that makes a prompter for each run, and one that closes their connections, if they have any.

    Args:
        settings: name the kind of prompter, its model and its endpoint.
        rubric: criteria that the prompter is told; None for none.
    """
    model, url = settings.prompter_model or settings.model, settings.prompter_base_url or settings.base_url
    kind = settings.prompter
    if kind == "auto":
        # An endpoint that draws through the Responses API speaks it to the prompter as well.
        same = settings.generator == "openai" and settings.prompter_base_url is None
        kind = "responses" if url is None or same else "chat"
    if kind == "feedback":
        return FeedbackPrompter, None
    endpoint = settings.endpoint(url)
    if kind == "responses":
        client = ResponsesClient(model, endpoint)
        return lambda: ResponsesPrompter(client, rubric), client.close
    key = endpoint.secret
    config = ClientConfig(
        base_url=url or OPENAI_URL,
        api_key=SecretStr(key) if key else None,
        timeout=settings.timeout,
        max_retries=settings.retries,
    )
    backend = ClientBackend(model, config)
    return lambda: ChatPrompter(backend, rubric), backend.close
