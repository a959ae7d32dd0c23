"""Run directors and generators on a request; whatever happens on the way, the result is a record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from PIL import Image

from agentfly.agents.llm_backends import LLMBackend
from agentfly.errors import AgentFlyError
from agentfly.images import ImageStore
from agentfly.systems.director_generator.chat import Chat
from agentfly.systems.director_generator.painters import Easel, make_easel
from agentfly.systems.director_generator.records import CallRecord, ImageRecord, PhaseRecord, RunRecord
from agentfly.systems.director_generator.run import RecursionLimit, Request, Run, Watcher
from agentfly.systems.director_generator.settings import Studio


class DirectorGenerator:
    """Several directors and generators, and what paints for them. Runs may overlap.

    Args:
        studio: settings, personas, prompts and keys; see `load_studio`.
        backends: chat backends by alias of the model, in place of those that the settings describe.
        easel: paints, in place of what `settings.sdxl` describes.
        store: keeps the images; in memory by default.

    Raises:
        ConfigError: a key for the images is missing.
        MissingExtraError: images are to be made here, and diffusers is not installed.
    """

    def __init__(
        self,
        studio: Studio,
        *,
        backends: Mapping[str, LLMBackend] | None = None,
        easel: Easel | None = None,
        store: ImageStore | None = None,
    ) -> None:
        self.studio = studio
        self.store = store or ImageStore()
        self._chat = Chat(studio, backends)
        self._easel = easel or make_easel(studio.settings.sdxl, studio.keys)

    async def run(
        self,
        request: Request,
        watcher: Watcher | None = None,
        run_id: str | None = None,
        timeout: float | None = None,
    ) -> RunRecord:
        """Work on a request to the end. What goes wrong is in the record: `status` and `error`.

        Args:
            request: what is asked for.
            watcher: is told what happens.
            run_id: a name for the run.
            timeout: seconds; what was done until then is in the record.
        """
        watcher = watcher or Silent()
        started = time.perf_counter()
        record = RunRecord(run_id or uuid4().hex[:12], request.prompt, self._told_settings(), _now())
        try:
            run = Run(self.studio, self._chat, self._easel, request, record, self.store, watcher)
            record.status = await asyncio.wait_for(run.go(), timeout)
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
        await self._chat.close()
        await self._easel.painter.close()

    def _told_settings(self) -> dict[str, Any]:
        """The settings in force; keys are no part of them."""
        studio = self.studio
        return {
            **studio.settings.model_dump(mode="json"),
            "directors": [persona.model_dump(mode="json") for persona in studio.directors],
            "generators": [persona.model_dump(mode="json") for persona in studio.generators],
            "painter": self._easel.painter.name,
        }


class Silent:
    """A watcher that looks away."""

    def phase_begins(self, phase: PhaseRecord) -> None:
        """Nothing."""

    def called(self, phase: PhaseRecord, call: CallRecord) -> None:
        """Nothing."""

    def painted(self, phase: PhaseRecord, record: ImageRecord, image: Image.Image | None) -> None:
        """Nothing."""

    def phase_ended(self, run: RunRecord) -> None:
        """Nothing."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
