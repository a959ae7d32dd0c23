"""Ask directors and generators: a backend for each model, bounded concurrency, and usable replies.

Chat goes through LiteLLM if it is installed, and otherwise through our own client, which speaks to OpenAI-compatible
endpoints. LiteLLM's exceptions are subclasses of the OpenAI SDK's; its replies are turned into the SDK's own objects.

A reply that cannot be used is requested again, with the reason. A failure is a record, not an exception. `read_brief`,
`read_prompt` and `read_critique` read the replies.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from pydantic import BaseModel

from agentfly.agents.llm_backends import (
    ClientBackend,
    ClientConfig,
    Generation,
    GenerationRequest,
    LLMBackend,
    SamplingParams,
)
from agentfly.agents.llm_backends.client_errors import Faults
from agentfly.errors import BackendError, ConfigError, MissingExtraError, require
from agentfly.evaluators.judge.replies import BrokenReply, read_reply
from agentfly.evaluators.judge.schemes import Question
from agentfly.images import ImageStore
from agentfly.messages import ImagePart, Message, TextPart, text_message, without_thoughts
from agentfly.systems.director_generator.records import CallRecord, Critique, Role
from agentfly.systems.director_generator.settings import ModelSettings, Persona, Studio

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


class LiteLLMBackend(ClientBackend):
    """A chat backend that goes through LiteLLM.

    Args:
        model: the vendor's id of the model, without the vendor's name.
        config: limits and key; its `base_url` names the vendor in messages where `api_base` is None.
        vendor: LiteLLM's name of the vendor; "openai" for any OpenAI-compatible endpoint.
        api_base: the endpoint; None for the vendor's own.

    Raises:
        MissingExtraError: litellm is not installed.
    """

    def __init__(self, model: str, config: ClientConfig, *, vendor: str, api_base: str | None) -> None:
        require("litellm", "chat through LiteLLM", "litellm")
        super().__init__(model, config)
        self._faults = Faults(config, f"{vendor.upper()}_API_KEY")
        key = config.api_key
        self._fixed: dict[str, object] = {
            "custom_llm_provider": vendor,
            "api_base": api_base,
            "api_key": key.get_secret_value() if key else ("EMPTY" if api_base else None),
            "timeout": config.timeout,
            # The client backend itself retries and leaves out the fields that a server refuses.
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
        }

    def _connect(self) -> openai.AsyncOpenAI:
        client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=self._create)))
        return cast("openai.AsyncOpenAI", client)

    async def _create(self, **body: object) -> ChatCompletion | _Stream:
        from openai.types.chat import ChatCompletion

        litellm: Any = importlib.import_module("litellm")
        # It would print advice to standard output with every error.
        litellm.suppress_debug_info = True
        reply = await litellm.acompletion(**body, **self._fixed)
        return _Stream(reply) if body.get("stream") else ChatCompletion.construct(**reply.model_dump())


class _Stream:
    """A streamed reply of LiteLLM in the form of the SDK's stream: a context manager that yields chunks."""

    def __init__(self, chunks: AsyncIterator[BaseModel]) -> None:
        self._chunks = chunks

    async def __aenter__(self) -> _Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        close = getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()

    async def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        from openai.types.chat import ChatCompletionChunk

        async for chunk in self._chunks:
            yield ChatCompletionChunk.construct(**chunk.model_dump())


Reader = Callable[[str], Mapping[str, object]]

_COMPATIBLE = ("openai", "vllm")
_REMINDER = "Your last reply could not be used: {reason}"
# The names of our own backends in a record; any other backend goes by its class.
_VIA = {"ClientBackend": "client", "LiteLLMBackend": "litellm"}
# The judge's own rules for replies: nothing is guessed, nothing out of range is clipped.
_CRITIQUE = Question("director_critique", {"score": "how good it is"}, 100, task="", shown=("result",))
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_LABEL = re.compile(r"\A(?:\*\*)?(?:picture |image )?(?:prompt|instruction)(?:\*\*)?\s*:(?:\*\*)?\s*", re.IGNORECASE)
# Its beginning stays on one line: over several, many empty lines take quadratic time.
_NEGATIVE = re.compile(r"^[^\w\n]*negative[ _]prompt\W*:\W*(.*)\Z", re.IGNORECASE | re.MULTILINE | re.DOTALL)


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
        model, started = self._studio.settings.model_of(alias), time.perf_counter()
        backend = self._backends[alias] = self._backends.get(alias) or make_backend(self._studio, model)
        kind = type(backend).__name__
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
    from agentfly.systems.director_generator.chat import LiteLLMBackend

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


def read_brief(text: str) -> dict[str, str]:
    """Return a brief: the whole reply."""
    return {"brief": text}


def read_prompt(text: str) -> dict[str, str]:
    """Return a prompt, and the text that follows "Negative prompt:".

    Raises:
        BrokenReply: there is no prompt before the negative one.
    """
    fenced = _FENCE.match(text)
    body = fenced[1].strip() if fenced else text
    found = _NEGATIVE.search(body)
    prompt = _LABEL.sub("", body[: found.start()] if found else body).strip().strip('"').strip()
    if not prompt:
        raise BrokenReply('it has no prompt: write the prompt first, then, if you like, a line "Negative prompt: ..."')
    return {"prompt": " ".join(prompt.split()), "negative_prompt": " ".join(found[1].split()) if found else ""}


def read_critique(text: str) -> Critique:
    """Return the score, from 0 to 100, and the feedback of a critique.

    Raises:
        BrokenReply: no JSON object with `feedback` and `score`, or the score is not a number from 0 to 100.
    """
    ratings = read_reply(text, _CRITIQUE)
    return {"score": ratings.values["score"], "feedback": ratings.feedback}
