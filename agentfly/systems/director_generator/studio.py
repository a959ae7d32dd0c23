"""The public entry of the system: run directors and generators on a request and get a record of the run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import uuid4

from agentfly.agents.llm_backends import LLMBackend
from agentfly.errors import AgentFlyError, ConfigError
from agentfly.evaluators import close_evaluator, make_evaluator
from agentfly.images import ImageStore
from agentfly.openai_client import Endpoint
from agentfly.redaction import public_settings
from agentfly.systems.director_generator.chat import Chat
from agentfly.systems.director_generator.records import RunRecord
from agentfly.systems.director_generator.run import Crew, RecursionLimit, Request, Review, Run, Watcher
from agentfly.systems.director_generator.settings import Keys, SdxlSettings, Studio
from agentfly.systems.generators import ImageGenerator
from agentfly.systems.generators.placeholder import FailoverGenerator, PlaceholderGenerator


class DirectorGenerator:
    """Several directors and generators, and an engine that makes their images. Runs may overlap.

    Args:
        studio: settings, personas, prompts and keys; see `load_studio`.
        backends: chat backends by alias of the model, in place of those that the settings describe.
        generator: makes the images, in place of the one that `settings.sdxl` describes.
        edits: the generator edits the first image of a request; otherwise it makes images from text alone.
        store: keeps the images; in memory by default.

    Raises:
        ConfigError: a key for the images is missing.
        MissingExtraError: images are to be made in this process, and diffusers is not installed.
    """

    def __init__(
        self,
        studio: Studio,
        *,
        backends: Mapping[str, LLMBackend] | None = None,
        generator: ImageGenerator | None = None,
        edits: bool = False,
        store: ImageStore | None = None,
    ) -> None:
        self.studio = studio
        self.store = store or ImageStore()
        generator = generator or make_generator(studio.settings.sdxl, studio.keys)
        given = studio.settings.evaluator
        evaluator = None if given is None else make_evaluator(given)
        self._crew = Crew(studio, Chat(studio, backends), generator, edits, self.store, evaluator)

    async def run(
        self,
        request: Request,
        watcher: Watcher | None = None,
        run_id: str | None = None,
        timeout: float | None = None,
        review: Review | None = None,
    ) -> RunRecord:
        """Work on a request to the end. A failure is in the record, as `status` and `error`.

        Args:
            request: the wish.
            watcher: told of every event.
            run_id: a name for the run.
            timeout: seconds; the record keeps all that was done until then.
            review: asks a person about every image once it is judged; None asks nobody.
        """
        watcher = watcher or Watcher()
        started, now = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        # The settings in force; keys are no part of them.
        settings = {
            **public_settings(self.studio.settings.model_dump(mode="json")),
            "directors": [persona.model_dump(mode="json") for persona in self.studio.directors],
            "generators": [persona.model_dump(mode="json") for persona in self.studio.generators],
            "painter": self._crew.generator.name,
        }
        record = RunRecord(run_id or uuid4().hex[:12], request.prompt, settings, now)
        try:
            record.status = await asyncio.wait_for(Run(self._crew, request, record, watcher, review).go(), timeout)
        except TimeoutError:
            record.status, record.error = "timeout", f"not done within {timeout:g} s"
        except AgentFlyError as fault:
            record.status = "recursion_limit" if isinstance(fault, RecursionLimit) else "failed"
            record.error = str(fault)
        record.seconds = time.perf_counter() - started
        watcher.phase_ended(record)
        return record

    async def close(self) -> None:
        """Close connections and drop loaded models."""
        await self._crew.chat.close()
        await self._crew.generator.close()
        if self._crew.evaluator is not None:
            await close_evaluator(self._crew.evaluator)


def make_generator(settings: SdxlSettings, keys: Keys) -> ImageGenerator:
    """Make the generator that the settings describe. Models are loaded at the first image.

    Args:
        settings: section `sdxl` of the configuration.
        keys: of an image server and of Stability; OpenAI's key is never sent to an image server.

    Raises:
        ConfigError: mode "api" has neither an image server nor Stability's key.
        MissingExtraError: mode "local" without diffusers.
    """
    generator: ImageGenerator
    size, steps, guidance = settings.sides, settings.steps, settings.guidance_scale
    if settings.mode == "mock":
        generator = PlaceholderGenerator(size)
    elif settings.mode == "local":
        from agentfly.systems.generators.diffusers import DiffusersGenerator
        from agentfly.vision.diffusion import WeightSettings

        weights = WeightSettings(model=settings.model, device=settings.device, dtype=settings.dtype)
        generator = DiffusersGenerator(weights, size=size, steps=steps, guidance_scale=guidance, text_only=True)
    elif settings.api_base is not None:
        from agentfly.systems.generators.server import ServerGenerator

        limits = {"timeout": settings.timeout, "retries": settings.retries}
        endpoint = Endpoint(base_url=settings.api_base, api_key_env="SDXL_API_KEY", api_key=keys.sdxl, **limits)
        place = "SDXL_API_BASE (sdxl.api_base)"
        generator = ServerGenerator(
            endpoint, place, size=settings.size, steps=steps, guidance_scale=guidance, text_only=True
        )
    else:
        generator = _stability(settings, keys)
    return generator if settings.failover_mode == "none" else FailoverGenerator(generator, size)


def _stability(settings: SdxlSettings, keys: Keys) -> ImageGenerator:
    from agentfly.systems.generators.stability import StabilityGenerator

    if keys.stability is None:
        raise ConfigError(
            "sdxl mode api: set SDXL_API_BASE to an image server, or STABILITY_API_KEY for Stability, or take "
            "mode mock or local"
        )
    return StabilityGenerator(
        settings.stability_base,
        settings.stability_engine,
        keys.stability,
        size=settings.sides,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        timeout=settings.timeout,
        retries=settings.retries,
    )
