"""Ask directors and generators: a backend for each model, bounded concurrency, and replies that can be used.

Chat goes through LiteLLM if it is installed, and otherwise through our own client, which speaks to OpenAI-compatible
endpoints. A reply that cannot be used is requested again, with the reason. A failure is a record, not an exception.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from pydantic import SecretStr

from agentfly.agents.llm_backends import (
    ClientBackend,
    ClientConfig,
    Generation,
    GenerationRequest,
    LLMBackend,
    SamplingParams,
)
from agentfly.errors import BackendError, ConfigError, MissingExtraError
from agentfly.evaluators.judge.replies import BrokenReply
from agentfly.images import ImageStore
from agentfly.messages import ImagePart, Message, TextPart, text_message, without_thoughts
from agentfly.systems.director_generator.records import CallRecord, Role
from agentfly.systems.director_generator.settings import ModelSettings, Persona, Studio

Reader = Callable[[str], Mapping[str, object]]

_COMPATIBLE = ("openai", "vllm")
_REMINDER = "Your last reply could not be used: {reason}"


class Chat:
    """The chat models of a studio.

    Args:
        studio: who uses which model, and where it is.
        backends: backends by alias, in place of those that the settings describe.
    """

    def __init__(self, studio: Studio, backends: Mapping[str, LLMBackend] | None = None) -> None:
        self._studio = studio
        self._backends = dict(backends or {})
        self._slots = asyncio.Semaphore(studio.settings.max_concurrent_calls)

    async def ask(
        self,
        role: Role,
        persona: Persona,
        words: tuple[str, str],
        read: Reader,
        images: Sequence[str],
        store: ImageStore,
    ) -> CallRecord:
        """Ask an agent until its reply can be used, or the attempts are over.

        Args:
            role, persona: who is asked.
            words: system and user text.
            read: what a reply says; raises `BrokenReply` where it says nothing of use.
            images: handles of the images that precede the user text, for a model that sees.
            store: where they are.

        Raises:
            ConfigError: the model's key is missing, or its vendor needs LiteLLM and that is not installed.
        """
        alias = persona.model or getattr(self._studio.settings.roles, role)
        model = self._studio.settings.model_of(alias)
        backend = self._backend(alias)
        shown = tuple(images) if model.sees_images else ()
        started = time.perf_counter()
        record = CallRecord(role, persona.name, model.model, _via(backend), *words, images=shown)
        for attempt in range(1, self._studio.settings.reply_attempts + 1):
            record = replace(record, attempts=attempt, error=None)
            try:
                generation = await self._generate(backend, record, model, persona, store)
                record = _with(record, generation)
                record = replace(record, data=read(_usable(generation)))
                break
            except BrokenReply as fault:
                reminder = _REMINDER.format(reason=fault)
                record = replace(record, error=str(fault), user=f"{words[1]}\n\n{reminder}")
            except BackendError as fault:
                record = replace(record, error=str(fault))
                break
        return replace(record, seconds=time.perf_counter() - started)

    async def close(self) -> None:
        """Close the connections."""
        for backend in self._backends.values():
            await backend.close()

    def _backend(self, alias: str) -> LLMBackend:
        if alias not in self._backends:
            self._backends[alias] = make_backend(self._studio, self._studio.settings.model_of(alias))
        return self._backends[alias]

    async def _generate(
        self, backend: LLMBackend, record: CallRecord, model: ModelSettings, persona: Persona, store: ImageStore
    ) -> Generation:
        temperature = model.temperature if persona.temperature is None else persona.temperature
        sampling = SamplingParams(temperature, max_tokens=model.max_tokens, extra=model.extra_body)
        user = Message("user", (*map(ImagePart, record.images), TextPart(record.user)))
        messages = (text_message("system", record.system), user)
        session = uuid4().hex
        request = GenerationRequest(session, session, messages, (), sampling, load_image=store.get)
        async with self._slots:
            if not self._studio.settings.stream:
                return await backend.generate(request)
            return await self._streamed(backend, request)

    async def _streamed(self, backend: LLMBackend, request: GenerationRequest) -> Generation:
        """A streamed reply. One that breaks off half-way is asked for anew: nobody has used its beginning."""
        for _ in range(self._studio.settings.retries):
            heard: list[str] = []
            try:
                return await backend.generate(request, _listener(heard))
            except BackendError as fault:
                # Without a first piece the backend has tried again already.
                if not (fault.retryable and heard):
                    raise
        return await backend.generate(request, _listener([]))


def make_backend(studio: Studio, model: ModelSettings) -> LLMBackend:
    """The backend of a model, by the settings' `chat` and the model's provider.

    Raises:
        ConfigError: OpenAI is asked and there is no key, or `chat: client` cannot reach the vendor.
        MissingExtraError: LiteLLM is needed and not installed.
    """
    settings, keys = studio.settings, studio.keys
    installed = importlib.util.find_spec("litellm") is not None
    own = model.provider in _COMPATIBLE
    if not own and settings.chat == "client":
        raise ConfigError(f"provider {model.provider!r} is reached through LiteLLM only: set chat to auto or litellm")
    if not own and not installed:
        raise MissingExtraError(f"provider {model.provider!r} of model {model.model!r}", "litellm")
    base = getattr(settings, model.provider).api_base if own else None
    key = keys.openai if own else (keys.vendors or {}).get(f"{model.provider.upper()}_API_KEY")
    if model.provider == "openai" and key is None:
        raise ConfigError("no key for OpenAI: set OPENAI_API_KEY in the environment or in .env")
    config = _config(studio, base or f"https://litellm/{model.provider}", key)
    if settings.chat == "client" or (own and not installed and settings.chat == "auto"):
        return ClientBackend(model.model, config)
    from agentfly.systems.director_generator.litellm_backend import LiteLLMBackend

    return LiteLLMBackend(model.model, config, vendor="openai" if own else model.provider, api_base=base)


def _config(studio: Studio, base_url: str, key: SecretStr | None) -> ClientConfig:
    settings = studio.settings
    return ClientConfig(base_url=base_url, api_key=key, timeout=settings.timeout, max_retries=settings.retries)


def _via(backend: LLMBackend) -> str:
    known = {"ClientBackend": "client", "LiteLLMBackend": "litellm"}
    return known.get(type(backend).__name__, type(backend).__name__)


def _with(record: CallRecord, generation: Generation) -> CallRecord:
    return replace(
        record,
        reply=generation.text,
        finish_reason=generation.finish_reason,
        prompt_tokens=record.prompt_tokens + generation.prompt_tokens,
        completion_tokens=record.completion_tokens + generation.completion_tokens,
    )


def _usable(generation: Generation) -> str:
    """The reply without what the model thought before it."""
    if generation.finish_reason == "abort":
        raise BrokenReply("the server cut it off (content filter or abort)")
    text = without_thoughts(generation.text)
    if not text:
        raise BrokenReply("it is empty")
    return text


def _listener(heard: list[str]) -> Callable[[str], Any]:
    async def hear(text: str) -> None:
        heard.append(text)

    return hear
