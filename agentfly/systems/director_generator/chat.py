"""Ask directors and generators: a backend for each model, bounded concurrency, and usable replies.

Chat goes through LiteLLM if it is installed, and otherwise through our own client, which speaks to OpenAI-compatible
endpoints. A reply that cannot be used is requested again, with the reason. A failure is a record, not an exception.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

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
# The names of our own backends in a record; any other backend goes by its class.
_VIA = {"ClientBackend": "client", "LiteLLMBackend": "litellm"}


class Chat:
    """The chat models of a studio.

    Args:
        studio: models, and the roles and personas that use them.
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
            role, persona: the agent.
            words: system and user text.
            read: returns the content of a reply; raises `BrokenReply` for a reply of no use.
            images: handles of the images that precede the user text, for a model that sees.
            store: holds the images.

        Raises:
            ConfigError: the model's key is missing, or its vendor needs LiteLLM and that is not installed.
        """
        alias = persona.model or getattr(self._studio.settings.roles, role)
        model, backend = self._studio.settings.model_of(alias), self._backend(alias)
        kind, started = type(backend).__name__, time.perf_counter()
        record = CallRecord(role, persona.name, model.model, _VIA.get(kind, kind), *words)
        record = replace(record, images=tuple(images) if model.sees_images else ())
        for attempt in range(1, self._studio.settings.reply_attempts + 1):
            record = replace(record, attempts=attempt, error=None)
            try:
                record = await self._attempt(backend, record, model, persona, store)
                record = replace(record, data=read(_usable_reply(record)))
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

    async def _attempt(
        self, backend: LLMBackend, record: CallRecord, model: ModelSettings, persona: Persona, store: ImageStore
    ) -> CallRecord:
        """Ask once; return the record with the reply, and with its tokens added."""
        temperature = model.temperature if persona.temperature is None else persona.temperature
        sampling = SamplingParams(temperature, max_tokens=model.max_tokens, extra=model.extra_body)
        user = Message("user", (*map(ImagePart, record.images), TextPart(record.user)))
        messages = (text_message("system", record.system), user)
        session = uuid4().hex
        request = GenerationRequest(session, session, messages, (), sampling, load_image=store.get)
        async with self._slots:
            stream = self._studio.settings.stream
            generation = await (self._stream(backend, request) if stream else backend.generate(request))
        return replace(
            record,
            reply=generation.text,
            finish_reason=generation.finish_reason,
            prompt_tokens=record.prompt_tokens + generation.prompt_tokens,
            completion_tokens=record.completion_tokens + generation.completion_tokens,
        )

    async def _stream(self, backend: LLMBackend, request: GenerationRequest) -> Generation:
        """Request a streamed reply. One that breaks off half-way is requested anew: nobody has used its beginning."""
        left = self._studio.settings.retries
        while True:
            pieces: list[str] = []

            async def keep(text: str, pieces: list[str] = pieces) -> None:
                pieces.append(text)

            try:
                return await backend.generate(request, keep)
            except BackendError as fault:
                # Without a first piece the backend has tried again already.
                if not (left and fault.retryable and pieces):
                    raise
            left -= 1


def make_backend(studio: Studio, model: ModelSettings) -> LLMBackend:
    """Make the backend of a model, by the settings' `chat` and the model's provider.

    Args:
        studio: endpoints, keys and limits.
        model: the model and its provider.

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
    address = base or f"https://litellm/{model.provider}"
    config = ClientConfig(base_url=address, api_key=key, timeout=settings.timeout, max_retries=settings.retries)
    if settings.chat == "client" or (own and not installed and settings.chat == "auto"):
        return ClientBackend(model.model, config)
    from agentfly.systems.director_generator.litellm_backend import LiteLLMBackend

    return LiteLLMBackend(model.model, config, vendor="openai" if own else model.provider, api_base=base)


def _usable_reply(record: CallRecord) -> str:
    """Return the reply without the reasoning before it.

    Raises:
        BrokenReply: the reply was cut off, or is empty.
    """
    if record.finish_reason == "abort":
        raise BrokenReply("the server cut it off (content filter or abort)")
    text = without_thoughts(record.reply)
    if not text:
        raise BrokenReply("it is empty")
    return text
