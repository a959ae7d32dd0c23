"""Checks of other services: the keys that they need, an OpenAI-compatible endpoint, and image servers.

The endpoint must answer, see images, and give the token ids that training and exact rollouts need. Image servers must
be healthy and offer what the tools need. Of keys only their names are ever shown.
"""

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


import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentfly.agents.llm_backends.endpoint import KEYED_HOST
from agentfly.errors import ConfigError
from agentfly.redaction import public_url, redact
from agentfly.vision.remote import NodeConfig
from agentfly.vision.remote.adapters import OPERATIONS
from agentfly.vision.remote.node import Circuit, Node
from agentfly.vision.remote.preflight import probe_nodes
from agentfly.vision.remote.settings import read_nodes

_SERVE = "start it: python -m agentfly.agents.specialized.image_agent.utils.diffuser_apis --port PORT ..."


def nodes(examination: Examination) -> Iterator[Finding]:
    """Check health, kind and operations of each node."""
    addresses = examination.request.nodes
    if not addresses:
        yield skipped("no image nodes were named", "--nodes HOST:PORT ...")
        return
    valid: list[NodeConfig] = []
    for address in addresses:
        try:
            valid += read_nodes(address, "--nodes", examination.request.nodes_key_env)
        except ConfigError as fault:
            yield error(str(fault), "write HOST:PORT or http(s)://HOST, and set the variable of --nodes-key-env")
    yield from check_nodes(asyncio.run(probe_nodes(valid)))


def check_nodes(found: Sequence[Node]) -> Iterator[Finding]:
    """Judge the state of each node, and the operations that no healthy node offers."""
    for node in found:
        if node.unusable:
            yield error(
                node.unusable, "name the address of an image server, and the variable with its key by --nodes-key-env"
            )
        elif node.starting:
            fix = "wait until its /health answers 200: its model is being loaded"
            yield warning(f"{node.url} is not ready yet", fix)
        elif not _is_healthy(node):
            yield error(f"{node.url}: {node.counters.last_error}", f"check host and port; {_SERVE}")
        else:
            kind = node.adapter.name if node.adapter else "unknown"
            operations = ", ".join(sorted(node.operations or ()))
            yield ok(f"{node.url}: {kind} with {node.model or 'a model'}: {operations}")
    offered = {operation for node in found if _is_healthy(node) for operation in node.operations or ()}
    # Few models take several images, and no embedded engine would do it instead.
    missing = [operation for operation in OPERATIONS if operation not in (*offered, "edit_images")]
    if offered and missing:
        yield warning(
            f"no node offers {' or '.join(missing)}: the embedded OpenCV engine does that instead",
            "add a node that does, or name an engine for it",
        )


def _is_healthy(node: Node) -> bool:
    return node.operations is not None and node.circuit is not Circuit.open


@dataclass(frozen=True)
class Key:
    """An environment variable with a key.

    Attributes:
        variable: name.
        purpose: uses that need the key.
        file: in the home folder, an alternative place of the key.
        word: text in that file if it holds the key.
    """

    variable: str
    purpose: str
    file: str = ""
    word: str = ""


KEYS = (
    Key("OPENAI_API_KEY", "an endpoint in the cloud, a judge as evaluator, OpenAI's image engine"),
    Key("WANDB_API_KEY", "logging to Weights & Biases (trainer.logger with wandb)", ".netrc", "wandb"),
    Key("HF_TOKEN", "gated and private models and data sets", ".cache/huggingface/token"),
)


def keys(examination: Examination) -> Iterator[Finding]:
    """Check the keys in the environment and in the files of their programs."""
    yield from check_keys(os.environ, examination.request.base_url, Path.home())


def check_keys(variables: Mapping[str, str], base_url: str | None, home: Path) -> Iterator[Finding]:
    """Check the keys. One that is missing is an error only if the request needs it.

    Args:
        variables: of the environment.
        base_url: of the endpoint, or None.
        home: folder with the files of other programs.
    """
    host = urlsplit(base_url).hostname if base_url else None
    for key in KEYS:
        value, in_file = variables.get(key.variable, ""), False
        if key.file:
            with contextlib.suppress(OSError):
                in_file = key.word in (home / key.file).read_text(encoding="utf-8", errors="replace")
        if value and (value != value.strip() or value.strip("\"'") != value):
            yield error(
                f"{key.variable} has spaces or quotes around it, which become part of the key",
                f"export {key.variable} without them",
            )
        elif value:
            yield ok(f"{key.variable} is set")
        elif in_file:
            yield ok(f"{key.variable} is not set, ~/{key.file} has the key")
        elif key.variable == "OPENAI_API_KEY" and host == KEYED_HOST:
            yield error(f"{KEYED_HOST} answers nobody without a key", "export OPENAI_API_KEY")
        else:
            yield skipped(
                f"{key.variable} is not set; it is for {key.purpose}", f"export {key.variable} if you use them"
            )


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
        reason = redact(str(fault) or type(fault).__name__, config.api_key)
        yield error(
            f"{public_url(request.base_url)} cannot be reached: {reason}", f"check the address, and start it: {_DEPLOY}"
        )
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
    url = public_url(url)
    if response.status_code in (401, 403):
        return {}, [error(f"{url} refuses the key ({response.status_code})", "export OPENAI_API_KEY with its key")]
    try:
        models = {str(one["id"]): one for one in response.json()["data"]}
    except (ValueError, KeyError, TypeError, RecursionError):
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
        reason = redact(str(fault) or type(fault).__name__, config.api_key)
        yield error(f"whether token ids come cannot be seen: {reason}", _UNREACHABLE)
        return
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
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
