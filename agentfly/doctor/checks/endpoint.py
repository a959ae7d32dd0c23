"""Check that an endpoint answers, accepts images, and returns the token ids for training and exact rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypedDict

from agentfly.agents.llm_backends.base import Generation, GenerationRequest, SamplingParams
from agentfly.agents.llm_backends.client_errors import UnreachableError
from agentfly.agents.llm_backends.configs import ClientConfig
from agentfly.agents.llm_backends.endpoint import key_headers, reachable_url
from agentfly.doctor.checks.conversation import ASK, RESULT, SAID, SCHEMA, load
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.errors import BackendError, unknown_name
from agentfly.messages import Message
from agentfly.templates import ChatCodec

if TYPE_CHECKING:
    import httpx

_LIST_SECONDS, _ANSWER_SECONDS = 5.0, 30.0
_TOKENS = 4
_DEPLOY = "python -m agentfly.utils.deploy --model_name_or_path CHECKPOINT --template TEMPLATE"
_UNREACHABLE = "look at the server's log and load, and at the network between; then run the doctor again"


class ServedModel(TypedDict, total=False):
    """An entry of `/v1/models`; vLLM adds `max_model_len` in tokens."""

    id: str
    max_model_len: int | None


def endpoint(examination: Examination) -> Iterator[Finding]:
    """Check the endpoint's list of models."""
    request = examination.request
    if request.base_url is None:
        yield skipped("no endpoint was named", "--base-url http://HOST:PORT/v1 --model NAME")
        return
    import httpx

    config = ClientConfig(base_url=request.base_url)
    try:
        response = httpx.get(f"{reachable_url(config)}/models", headers=key_headers(config), timeout=_LIST_SECONDS)
    except (httpx.TransportError, httpx.InvalidURL) as fault:
        reason = str(fault) or type(fault).__name__
        yield error(f"{request.base_url} cannot be reached: {reason}", f"check the address, and start it: {_DEPLOY}")
        return
    models, findings = read_models(response, request.base_url, request.model)
    yield from findings
    served = request.model or next(iter(models), None)
    if served is not None:
        examination.served = served
        length = models[served].get("max_model_len") if served in models else None
        examination.engine_context = int(length) if length else None


def answer(examination: Examination) -> Iterator[Finding]:
    """Check a short answer to a question with an image."""
    yield from check_answer(_config(examination), _served(examination))


def token_ids(examination: Examination) -> Iterator[Finding]:
    """Check the ids of a short answer: those of the prompt, and the sampled ones."""
    config, served = _config(examination), _served(examination)
    if examination.codec is None:
        yield from check_ids(config, served)
    else:
        yield from check_exact(config, served, examination.codec)


def read_models(response: httpx.Response, url: str, model: str | None) -> tuple[dict[str, ServedModel], list[Finding]]:
    """Return the models in an answer of `/v1/models` by name, and the findings about it.

    Args:
        response: of any status and content.
        url: address of the endpoint.
        model: the wanted name; None for any.
    """
    if response.status_code in (401, 403):
        return {}, [error(f"{url} refuses the key ({response.status_code})", "export OPENAI_API_KEY with its key")]
    try:
        models = {str(one["id"]): one for one in response.json()["data"]}
    except (ValueError, KeyError, TypeError):
        no_list = f"{url}/models answered {response.status_code} and no list of models"
        return {}, [error(no_list, "check that --base-url ends in /v1 and is that of a chat endpoint")]
    if model is not None and model not in models:
        return models, [error(unknown_name("model on the endpoint", model, models), "name one of these with --model")]
    if not models:
        return models, [error(f"{url} serves no model", f"start it with one: {_DEPLOY}")]
    return models, [ok(f"{url} serves {', '.join(sorted(models)[:3])}")]


def check_answer(config: ClientConfig, model: str) -> Iterator[Finding]:
    """Send a question through the client backend, without retries."""
    try:
        said = asyncio.run(_generate(config, model, (ASK,)))
    except UnreachableError as fault:
        yield error(f"no answer to a question with an image: {fault}", _UNREACHABLE)
        return
    except BackendError as fault:
        yield error(f"no answer to a question with an image: {fault}", f"serve a vision-language model: {_DEPLOY}")
        return
    yield ok(f"answers a question with an image ({said.completion_tokens or 'some'} tokens)")


def check_ids(config: ClientConfig, model: str) -> Iterator[Finding]:
    """Check that an answer has token ids, where there is no checkpoint to compare them with."""
    import httpx

    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say ok."}],
        "max_completion_tokens": _TOKENS,
        "logprobs": True,
        "return_token_ids": True,
    }
    fix = f"exact rollouts need a vLLM server: {_DEPLOY}; agents work with any endpoint"
    try:
        url = f"{reachable_url(config)}/chat/completions"
        reply = httpx.post(url, json=body, headers=key_headers(config), timeout=config.timeout).json()
        ids = bool(reply.get("prompt_token_ids")) and bool(reply["choices"][0].get("token_ids"))
    except httpx.TransportError as fault:
        yield error(f"whether token ids come cannot be seen: {str(fault) or type(fault).__name__}", _UNREACHABLE)
        return
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        ids = False
    if ids:
        yield ok("answers with token ids; with --checkpoint they are compared with those of the template")
    else:
        yield warning("answers without token ids: trajectories will not be token-exact", fix)


def check_exact(config: ClientConfig, model: str, codec: ChatCodec) -> Iterator[Finding]:
    """Check that the server's prompt equals that of a rollout with the checkpoint, images of tool turns included."""
    exact = config.model_copy(update={"return_token_ids": True})
    try:
        asyncio.run(_generate(exact, model, (ASK, SAID, RESULT), codec))
    except UnreachableError as fault:
        yield error(f"whether it is token-exact cannot be seen: {fault}", _UNREACHABLE)
        return
    except BackendError as fault:
        yield error(
            f"not token-exact: {fault}",
            f"serve this checkpoint with this template and its own pixel limits: {_DEPLOY}",
        )
        return
    runs = codec.image_runs(codec.prompt_ids((ASK, SAID, RESULT), [SCHEMA], load))
    yield ok(f"token-exact: the server's prompt is the rollout's, with images of {runs} tokens in user and tool turns")


async def _generate(
    config: ClientConfig, model: str, messages: tuple[Message, ...], codec: ChatCodec | None = None
) -> Generation:
    from agentfly.agents.llm_backends.client import ClientBackend

    tools = [SCHEMA] if codec else []
    request = GenerationRequest(
        request_id="doctor",
        session_id="doctor",
        messages=messages,
        tools=tools,
        sampling=SamplingParams(temperature=0.0, max_tokens=_TOKENS),
        prompt_ids=codec.prompt_ids(messages, tools, load) if codec else (),
        images=[handle for message in messages for handle in message.images],
        load_image=load,
    )
    backend = ClientBackend(model, config, codec=codec)
    try:
        return await backend.generate(request)
    finally:
        await backend.close()


def _config(examination: Examination) -> ClientConfig:
    assert examination.request.base_url is not None, "the check `endpoint` comes first"
    return ClientConfig(base_url=examination.request.base_url, timeout=_ANSWER_SECONDS, max_retries=0)


def _served(examination: Examination) -> str:
    assert examination.served is not None, "the check `endpoint` comes first"
    return examination.served
