"""HTTP to one node: ask for its operations, send requests, and classify failures."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import httpx

from agentfly.errors import ConfigError, EngineUnavailable, ToolError
from agentfly.redaction import redact
from agentfly.vision.remote.adapters import ADAPTERS, OPERATIONS, BadReply, Call, adapter_of
from agentfly.vision.remote.node import Node
from agentfly.vision.remote.settings import PoolSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_PAUSE, _SHORTEST_PAUSE = 30.0, 0.05
# Servers drop idle connections after a few seconds (uvicorn after 5); a request on one that is about to go would fail.
_KEEP_IDLE = 2.0


class AttemptFault(Exception):
    """An attempt failed; another one may succeed."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(f"{node.url}: {reason}")
        self.node, self.reason = node, reason


class Busy(AttemptFault):
    """The node has no room, and asks to come back after `retry_after` seconds."""

    def __init__(self, node: Node, retry_after: float) -> None:
        super().__init__(node, "busy")
        self.retry_after = retry_after


class Failed(AttemptFault):
    """The node gave no usable answer.

    Attributes:
        away: nobody could be connected to, so the request itself is not at fault.
    """

    def __init__(self, node: Node, reason: str, *, away: bool = False) -> None:
        super().__init__(node, reason)
        self.away = away


class Refused(ToolError):
    """The engine of a server refused the request; its message is for the model."""


class CannotDo(Refused, EngineUnavailable):
    """The engine of a server cannot do this kind of request at all."""


class Transport:
    """Connections to all nodes of a pool. Belongs to one event loop.

    Proxies from the environment are not used: nodes are named by address.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=settings.max_limit, keepalive_expiry=_KEEP_IDLE
        )
        self._client = httpx.AsyncClient(trust_env=False, limits=limits)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, node: Node, call: Call, read: Callable[[bytes], T], deadline: float) -> T:
        """Send a call and return the result of the node's answer.

        Args:
            node: the server.
            call: the request.
            read: makes the result of a reply; run in a thread.
            deadline: in seconds of `time.monotonic`.

        Raises:
            Busy: no room; try another node, or this one later.
            Failed: no usable answer.
            Refused: the engine will not do it on any server.
            ConfigError: the key is wrong, or the address is not that of an image server.
        """
        assert node.adapter is not None
        left = max(0.001, deadline - time.monotonic())
        form = node.adapter.form(call, node.config.model, left)
        timeout = httpx.Timeout(left, connect=min(left, self._settings.connect_seconds))
        try:
            response = await self._client.post(
                node.url + form.path, data=form.data, files=form.files, headers=node.config.headers, timeout=timeout
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as fault:
            raise Failed(node, "cannot connect", away=True) from fault
        except httpx.RequestError as fault:
            raise Failed(node, f"the connection broke ({type(fault).__name__})") from fault
        _check(node, response)
        try:
            return await asyncio.to_thread(read, response.content)
        except BadReply as fault:
            raise Failed(node, str(fault)) from fault

    async def probe(self, node: Node) -> None:
        """Probe the health and the offers of a node, and record them with it. Raises nothing."""
        try:
            if await self._is_ready(node):
                await self._read_offers(node)
                node.record_healthy()
        except httpx.RequestError as fault:
            node.record_silence(f"cannot connect ({type(fault).__name__})")
        except BadReply as fault:
            node.record_failure(str(fault), away=True)
        except ConfigError as fault:
            node.unusable = str(fault)
            node.record_failure(str(fault), away=True)
        except Exception as fault:
            # Nobody awaits a probe, so a fault that left here would show only as a node that never comes back.
            logger.exception("the health check of %s broke", node.url)
            node.record_failure(f"its health check broke ({type(fault).__name__})", away=True)
        # Not in a `finally`: a probe that was cancelled has learned nothing.
        node.record_probe()

    async def _is_ready(self, node: Node) -> bool:
        path = node.adapter.health if node.adapter else "/health"
        if path is None:
            return True
        response = await self._get(node, path)
        if response.status_code == 503:
            node.record_starting()
            return False
        # A server without that path may still be one that works.
        if response.status_code >= 500:
            raise BadReply(f"its health check answered {response.status_code}")
        return True

    async def _read_offers(self, node: Node) -> None:
        """Read adapter, model and operations; again after every failure, since another server may run there now."""
        response = await self._get(node, "/v1/models")
        models: Mapping[str, object] = {}
        if response.status_code == 200:
            try:
                models = json.loads(response.content)
            except (ValueError, RecursionError) as fault:
                raise BadReply("its /v1/models is no JSON") from fault
            if not isinstance(models, dict) or not all(isinstance(model, dict) for model in _read_list(models, "data")):
                raise BadReply("its /v1/models is no list of models")
        elif response.status_code in (401, 403) or node.config.adapter is None:
            _check_address(node, response)
            raise BadReply(f"its /v1/models answered {response.status_code}")
        if node.config.adapter is None:
            node.adapter = adapter_of(models)
        if node.adapter is None:
            raise ConfigError(
                f"{node.url} does not tell what kind of server it is: check the address, or name its adapter "
                f"({', '.join(ADAPTERS)}) in the server's entry of client_nodes"
            )
        first: Mapping[str, object] = next(iter(_read_list(models, "data")), {})
        node.model, node.version = node.config.model or str(first.get("id", "")), str(first.get("version", ""))
        offered = node.adapter.operations
        if node.adapter.name == "agentfly":
            capabilities = _read_list(first, "capabilities")
            offered = frozenset(operation for operation in OPERATIONS if operation in capabilities)
            most = first.get("max_images")
            # Earlier versions do not tell, and take one.
            if "edit" in offered and isinstance(most, int) and most > 1:
                offered |= {"edit_images"}
            slots = first.get("slots")
            if isinstance(slots, int) and slots > 0:
                node.record_slots(slots)
        node.operations = offered if node.config.operations is None else node.config.operations

    async def _get(self, node: Node, path: str) -> httpx.Response:
        return await self._client.get(
            node.url + path, headers=node.config.headers, timeout=self._settings.probe_seconds
        )


def _read_list(item: Mapping[str, object], name: str) -> list[Any]:
    value = item.get(name, [])
    if not isinstance(value, list):
        raise BadReply(f"its /v1/models has no list of {name}")
    return value


def _check(node: Node, response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    _check_address(node, response)
    if status in (429, 503):
        try:
            asked = float(response.headers.get("retry-after", "1"))
        except ValueError:
            asked = 1.0
        raise Busy(node, min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, asked)))
    if status == 408 or status >= 500:
        raise Failed(node, _reason(response))
    if _error(response).get("code") == "engine_unavailable":
        raise CannotDo(_message(response))
    raise Refused(_message(response))


def _check_address(node: Node, response: httpx.Response) -> None:
    """Raise `ConfigError` where the key is wrong, or the server does not know our requests."""
    status, reason, variable = response.status_code, _reason(response), node.config.api_key_env
    if status in (401, 403) and variable is not None:
        raise ConfigError(f"{node.url} refused the key ({reason}): check the environment variable {variable}")
    if status in (401, 403):
        raise ConfigError(
            f"{node.url} wants a key ({reason}): name the environment variable that has it with --nodes-key-env, or "
            "with api_key_env in the server's entry of client_nodes"
        )
    if status in (404, 405):
        raise ConfigError(f"{node.url} is no image server that we know ({reason}): check address and adapter")
    if status == 421:
        raise ConfigError(f"{node.url} does not answer to this name ({reason})")


def _reason(response: httpx.Response) -> str:
    return f"{response.status_code}: {_message(response)}"


def _error(response: httpx.Response) -> dict[str, object]:
    """Return the error of a reply in OpenAI's form; FastAPI's is translated."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    error = body.get("error", body.get("detail", "")) if isinstance(body, dict) else ""
    return error if isinstance(error, dict) else {"message": str(error)}


def _message(response: httpx.Response) -> str:
    # A server may repeat the key that it refuses.
    key = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    return redact(str(_error(response).get("message") or response.reason_phrase), key)[:500]
