"""Send one prompt several times at once, and stream each answer to its own file."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

from agentfly.agents.llm_backends import LLMBackend
from agentfly.errors import AgentFlyError, ConfigError
from agentfly.systems.text.agents import BasicAgent
from agentfly.systems.text.model import BaseModel, as_model
from agentfly.systems.text.replies import make_folder, partial

logger = logging.getLogger(__name__)

ERROR = "error: "
_NAME = re.compile(r"[^/\\\x00]{1,200}")


class MultiCallSystem:
    """A system that calls a model several times at once with the same prompt.

    Args:
        system_id: name of the system.
        model: a model, or any LLM backend.
        max_concurrency: calls that run at the same time.
        system_prompt: first message of every call; None for none.

    Raises:
        ConfigError: `max_concurrency` is less than 1.
    """

    def __init__(
        self,
        system_id: str,
        model: BaseModel | LLMBackend,
        *,
        max_concurrency: int = 16,
        system_prompt: str | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise ConfigError(f"max_concurrency={max_concurrency}: use 1 or more")
        self.system_id = system_id
        self.model = as_model(model)
        self.max_concurrency = max_concurrency
        self._agent = BasicAgent(f"{system_id}-caller", self.model, system_prompt=system_prompt)

    async def run(
        self,
        prompt: str,
        num_calls: int,
        output_dir: str | Path,
        base_filename: str = "response",
        *,
        extension: str = ".txt",
        seed: int | None = None,
        **kwargs: object,
    ) -> dict[str, str]:
        """Write answers to files `BASE_1.txt`, `BASE_2.txt`, ...

        A call that fails does not end the others; the beginning of its answer is left as `BASE_3.txt.partial`.

        Args:
            prompt, num_calls: prompt of all calls, and their number.
            output_dir: folder of the files; made where it is missing.
            base_filename, extension: beginning and end of the files' names.
            seed: of the first call, counted up, or all answers would be equal.
            kwargs: of every call; see `BaseModel.call_stream`.

        Returns:
            For each call, `call_1` and so on, the path of its file, or its error, which begins with "error: ".

        Raises:
            ConfigError: a number, a name or the folder is wrong.
        """
        if num_calls < 1:
            raise ConfigError(f"num_calls={num_calls}: use 1 or more")
        if not _NAME.fullmatch(base_filename):
            raise ConfigError(f"base_filename={base_filename!r} is no file name: give the folder as output_dir")
        folder, gate = make_folder(output_dir), asyncio.Semaphore(self.max_concurrency)
        work = []
        for index in range(num_calls):
            options = kwargs if seed is None else {**kwargs, "seed": seed + index}
            file = folder / f"{base_filename}_{index + 1}{extension}"
            work.append(self._call_and_save_task(prompt, file, options, gate))
        done = await asyncio.gather(*work)
        return {f"call_{number}": outcome for number, outcome in enumerate(done, 1)}

    async def _call_and_save_task(
        self, prompt: str, file: Path, options: dict[str, object], gate: asyncio.Semaphore
    ) -> str:
        try:
            async with gate:
                await self._agent.run(prompt, output_path=file, **options)
            return str(file)
        except (AgentFlyError, OSError) as fault:
            words = str(fault)
        except Exception as fault:  # a bug in one call must not end the others
            logger.exception("%s: %s failed", self.system_id, file.name)
            words = f"{type(fault).__name__}: {fault}"
        left = f"; what came is in {partial(file)}" if partial(file).exists() else ""
        logger.error("%s: %s: %s%s", self.system_id, file.name, words, left)
        return f"{ERROR}{words}{left}"
