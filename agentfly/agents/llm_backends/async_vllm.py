"""vLLM in this process: exact token ids in, exact token ids and their log-probs out.

The engine starts once, with the first turn, and serves many chains at the same time. The prompt that vLLM works on is
compared with the ids that training will see; a difference is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, cast

from agentfly.agents.llm_backends.base import FinishReason, Generation, GenerationRequest, OnDelta
from agentfly.agents.llm_backends.configs import AsyncVLLMConfig
from agentfly.agents.llm_backends.token_exact import check_prompt
from agentfly.agents.llm_backends.vllm_defaults import (
    ANY_DEVICE,
    CPU,
    CPU_ENVIRONMENT,
    CPU_IN_PROCESS,
    CPU_IN_PROCESS_ENVIRONMENT,
)
from agentfly.aio import CancelledItself, TimeLimitExceeded, with_timeout
from agentfly.errors import AgentFlyError, BackendError, MissingExtraError, TemplateError
from agentfly.images import without_transparency
from agentfly.model_source import find_model
from agentfly.templates import ChatCodec, load_template

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

# vLLM itself gives up at start_timeout. The margin is for its imports before that, and for cleaning up afterwards.
_START_MARGIN = 30.0
CLOSE_SECONDS = 60.0
_OTHER_PROMPT = "Use one checkpoint folder, with one processor configuration, for both"


class _Logprob(Protocol):
    """Log-probability of one token, as vLLM gives it."""

    logprob: float


class _Completion(Protocol):
    """vLLM's `CompletionOutput`: tokens of one answer, or the new ones of a stream."""

    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, _Logprob]]
    finish_reason: str | None


class _Output(Protocol):
    """vLLM's `RequestOutput`."""

    prompt_token_ids: Sequence[int]
    num_cached_tokens: int | None
    outputs: Sequence[_Completion]


def engine_arguments(model: str, config: AsyncVLLMConfig, *, cpu: bool) -> dict[str, object]:
    """Return the arguments of vLLM's `AsyncEngineArgs`: the given ones, over the defaults for this device.

    On any device: up to 8 images a prompt and no video, raw log-probs. On a CPU also: float32, eager, one process,
    128 MiB of KV cache, prompts in one piece.

    Args:
        model: checkpoint folder or hub name.
        config: engine settings; those that were set go before the defaults.
        cpu: add the defaults for a CPU.
    """
    return {"model": model, **ANY_DEVICE, **({**CPU, **CPU_IN_PROCESS} if cpu else {}), **config.given()}


def sampling_arguments(request: GenerationRequest, codec: ChatCodec, *, streaming: bool) -> dict[str, object]:
    """Return the arguments of vLLM's `SamplingParams` except for the kind of output.

    Args:
        request: the turn to sample.
        codec: gives the ids of end tokens and of the image placeholder.
        streaming: the text of each piece is needed.
    """
    sampling = request.sampling
    extra = dict(sampling.extra)
    # A sampled placeholder would stand for an image that does not exist, and break the next prompt.
    bias = {**dict.fromkeys(codec.never_sampled, -100.0), **cast("Mapping[int, float]", extra.pop("logit_bias", {}))}
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "logprobs": 0,
        "stop_token_ids": sorted(codec.eos_ids),
        "logit_bias": bias,
        "detokenize": streaming or "stop" in extra,
        **extra,
    }


class AsyncVLLMBackend:
    """Generates with its own engine. Belongs to the event loop of its first turn, until `close`.

    Args:
        model: checkpoint folder or hub name.
        config: engine settings.
        template: name or path of a chat template; None takes the checkpoint's own.
        codec: a codec that exists already, in place of `template`.

    Raises:
        TemplateError: the template is unknown.
    """

    def __init__(
        self,
        model: str,
        config: AsyncVLLMConfig | None = None,
        *,
        template: str | None = None,
        codec: ChatCodec | None = None,
    ) -> None:
        self._model = model
        self._config = config or AsyncVLLMConfig()
        if template is not None and codec is None:
            load_template(template)
        self._template = template
        self._codec: ChatCodec | BackendError | None = codec
        self._starting: asyncio.Task[AsyncLLM] | None = None

    @property
    def codec(self) -> ChatCodec:
        """The codec whose ids the engine takes and gives, loaded at its first use.

        Raises:
            BackendError: the checkpoint's processor cannot be loaded. It is tried once.
        """
        if self._codec is None:
            try:
                self._codec = ChatCodec.from_pretrained(
                    self._model, self._template, trust_remote_code=self._config.trust_remote_code
                )
            except AgentFlyError as fault:
                self._codec = BackendError(str(fault))
            except Exception as fault:  # transformers raises OSError, ValueError, ImportError, ... for the same reason
                first = str(fault).strip().partition("\n")[0]
                self._codec = BackendError(
                    f"cannot load the processor of {self._model!r} ({type(fault).__name__}: {first}); "
                    "give a checkpoint folder, or a hub name that this machine can reach"
                )
        if isinstance(self._codec, BackendError):
            raise self._codec
        return self._codec

    async def generate(self, request: GenerationRequest, on_delta: OnDelta | None = None) -> Generation:
        """Sample one turn. Cancelling the call aborts it in the engine.

        Args:
            request: the conversation with its exact ids, and the sampling.
            on_delta: listens to the text as it is sampled.

        Raises:
            BackendError: the engine did not start or died, refused the request, or worked on another prompt.
            ConfigError: vLLM has no such setting.
        """
        engine = await self._engine()
        prompt = await self._prompt(request)
        ids: list[int] = []
        logprobs: list[float] = []
        finish: str | None = None
        cached = 0
        # Closing the generator is what aborts the request in the engine when this side fails.
        async with contextlib.aclosing(self._outputs(engine, prompt, request, on_delta is not None)) as outputs:
            async for output in outputs:
                cached = output.num_cached_tokens or cached
                if not ids:
                    check_prompt(output.prompt_token_ids, request.prompt_ids, _OTHER_PROMPT)
                new = output.outputs[0]
                logprobs.extend(step[token].logprob for token, step in zip(new.token_ids, new.logprobs, strict=True))
                ids.extend(new.token_ids)
                finish = new.finish_reason
                if on_delta is not None and new.text:
                    await on_delta(new.text)
        return Generation(
            text=self.codec.decode(ids),
            finish_reason=cast(FinishReason, finish) if finish in ("stop", "length") else "abort",
            token_ids=tuple(ids),
            logprobs=tuple(logprobs),
            prompt_tokens=len(request.prompt_ids),
            completion_tokens=len(ids),
            extra={"cached_tokens": cached},
        )

    async def start(self) -> None:
        """Start the engine now, so that the first turn need not wait for it.

        Raises:
            BackendError: it did not start.
            ConfigError: vLLM has no such setting, or there is no such model.
        """
        await self._engine()

    async def close(self) -> None:
        """Stop the engine and free its memory; the next turn starts a new one."""
        starting, self._starting = self._starting, None
        if starting is None:
            return
        with contextlib.suppress(AgentFlyError, asyncio.CancelledError, TimeLimitExceeded, CancelledItself):
            engine = await starting
            # vLLM cancels this task after the engine is gone; until then it logs the engine's end as a failure.
            if engine.output_handler is not None:
                engine.output_handler.cancel()
            await with_timeout(asyncio.to_thread(engine.shutdown), CLOSE_SECONDS)

    async def _engine(self) -> AsyncLLM:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        starting = self._starting
        if starting.get_loop() is not asyncio.get_running_loop():
            raise BackendError("the engine runs in another event loop; use one loop, or close() the backend in between")
        try:
            # One chain that is cancelled must not stop the start that the others wait for.
            return await asyncio.shield(starting)
        except AgentFlyError:
            if self._starting is starting:
                self._starting = None
            raise

    async def _start(self) -> AsyncLLM:
        start = ThreadPoolExecutor(1, "vllm-start").submit(start_engine, self._model, self._config)
        try:
            limit = self._config.start_timeout + _START_MARGIN
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(start)), limit)
        except TimeoutError:
            start.add_done_callback(_shut_down_late)
            raise BackendError(
                f"vLLM did not start {self._model!r} within {self._config.start_timeout:g} s; "
                "raise the start_timeout of backend_config, or read vLLM's log"
            ) from None
        except asyncio.CancelledError:
            start.add_done_callback(_shut_down_late)
            raise

    async def _prompt(self, request: GenerationRequest) -> dict[str, object]:
        load = request.load_image
        if not request.images:
            return {"prompt_token_ids": list(request.prompt_ids)}
        if load is None:
            raise BackendError("the prompt has images, but the request has no load_image")

        def prepare() -> dict[str, object]:
            images = [without_transparency(load(handle)) for handle in request.images]
            try:
                ids = self.codec.collapse(request.prompt_ids, request.images, load)
            except TemplateError as fault:
                raise BackendError(f"the prompt is not vLLM's: {fault}") from fault
            return {"prompt_token_ids": ids, "multi_modal_data": {"image": images}}

        return await asyncio.to_thread(prepare)

    async def _outputs(
        self, engine: AsyncLLM, prompt: Mapping[str, object], request: GenerationRequest, streaming: bool
    ) -> AsyncGenerator[_Output, None]:
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        kind = RequestOutputKind.DELTA if streaming else RequestOutputKind.FINAL_ONLY
        try:
            params = SamplingParams(output_kind=kind, **sampling_arguments(request, self.codec, streaming=streaming))
            async with contextlib.aclosing(engine.generate(prompt, params, request.request_id)) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError as fault:
            raise BackendError(f"vLLM's engine died: {fault} close() the backend to start a new one") from fault
        except (ValueError, TypeError) as fault:
            raise BackendError(f"vLLM refused the request: {fault}") from fault
        except Exception as fault:
            raise BackendError(f"vLLM failed to generate: {fault.__cause__ or fault}", retryable=True) from fault


def start_engine(model: str, config: AsyncVLLMConfig) -> AsyncLLM:
    """Start an engine, which takes seconds to minutes.

    Args:
        model: checkpoint folder or hub name.
        config: engine settings.

    Raises:
        BackendError: vLLM could not start.
        ConfigError: vLLM has no such setting, or there is no such model.
        MissingExtraError: vLLM is not installed.
    """
    source = find_model(model)
    # vLLM reads this as a number as soon as it is set, and fails on an empty one.
    if os.environ.get("VLLM_CPU_KVCACHE_SPACE") == "":
        del os.environ["VLLM_CPU_KVCACHE_SPACE"]
    with _environment_defaults({"VLLM_ENGINE_READY_TIMEOUT_S": str(math.ceil(config.start_timeout))}):
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as fault:
            raise MissingExtraError("backend 'async_vllm'", "verl") from fault
        config.check_names(AsyncEngineArgs.__dataclass_fields__)
        cpu = current_platform.is_cpu()
        with _environment_defaults({**CPU_ENVIRONMENT, **CPU_IN_PROCESS_ENVIRONMENT} if cpu else {}):
            try:
                return AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(source, config, cpu=cpu)))
            except Exception as fault:
                raise BackendError(f"vLLM could not start {model!r}: {fault}. Its log above names the cause") from fault


@contextlib.contextmanager
def _environment_defaults(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set yet, for the engine's processes; unset them in this one afterwards."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _shut_down_late(start: Future[AsyncLLM]) -> None:
    if not start.cancelled() and start.exception() is None:
        start.result().shutdown()
