"""Clients of OpenAI-compatible endpoints for engines: one SDK client per event loop, faults that say what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from agentfly.aio import LoopLocal
from agentfly.errors import ConfigError, ToolError, first_line, unknown_name
from agentfly.settings import Settings

if TYPE_CHECKING:
    import openai


_LIST_SECONDS = 5.0
_LISTED, _LONGEST = 20, 200  # names that a message shows, and characters of a name
_WANTS_KEY = "api.openai.com"


class Endpoint(Settings):
    """Where a server is.

    Attributes:
        base_url: address up to /v1; None is OpenAI's.
        api_key_env: environment variable with the key; where it is not set, `base_url` is taken to need none.
        api_key: the key itself, instead.
        timeout: seconds for a request.
        retries: attempts after the first, on faults that may pass; the SDK waits in between.
    """

    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    api_key: SecretStr | None = None
    timeout: float = Field(120.0, gt=0)
    retries: int = Field(2, ge=0)

    def key(self) -> str:
        """The key to send.

        Raises:
            ConfigError: OpenAI itself is asked, and there is no key.
        """
        key = self.api_key.get_secret_value() if self.api_key else os.environ.get(self.api_key_env)
        if not key and (self.base_url is None or urlsplit(self.base_url).hostname == _WANTS_KEY):
            raise ConfigError(f"no API key: set {self.api_key_env}, or give base_url of a server that needs none")
        return key or "none"


class SdkClient:
    """The SDK's client for an endpoint; a new one for a new event loop, since connections belong to theirs.

    Args:
        endpoint: where the server is.
        client: a client to use as it is, instead; it belongs to whoever gave it.
    """

    def __init__(self, endpoint: Endpoint, client: openai.AsyncOpenAI | None = None) -> None:
        self._endpoint = endpoint
        self._given = client
        self._own = LoopLocal(self._make)

    def get(self) -> openai.AsyncOpenAI:
        """The client of the running event loop."""
        return self._given or self._own.get()

    async def check_model(self, model: str, who: str) -> None:
        """Look for a model on the endpoint's list, which costs nothing.

        Args:
            model: its name on the server.
            who: for messages, such as "the judge m".

        Raises:
            ConfigError: a key is missing or refused, or the model is not on the list.
            ToolError: the endpoint does not answer.
        """
        who = f"{who} at {self._endpoint.base_url or _WANTS_KEY}"
        names = await self._models(who)
        # Some endpoints list "models/NAME" for NAME, a proxy lists patterns, and a small server may list nothing.
        if names and not any(fnmatchcase(model, name) or name.endswith(f"/{model}") for name in names):
            shown = [name[:_LONGEST] for name in names[:_LISTED]]
            raise ConfigError(f"{who} is not served there: {unknown_name('model', model, shown)}")

    async def _models(self, who: str) -> list[str]:
        """Return the names on the endpoint's list; none where a chat server keeps no list."""
        import openai

        client = self.get().with_options(timeout=_LIST_SECONDS, max_retries=0)
        with sdk_faults(who):
            try:
                answer: Any = await client.get("/models", cast_to=object)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as fault:
                key = self._endpoint.api_key_env
                raise ConfigError(f"{who} refuses the key (HTTP {fault.status_code}): set {key}") from None
            except openai.NotFoundError:
                if str(client.base_url).rstrip("/").endswith("/v1"):
                    return []
                raise
            except json.JSONDecodeError:  # the SDK lets it through
                answer = None
        listed = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            raise ConfigError(f"{who} gives no list of models: check base_url, which ends in /v1")
        return [str(one.get("id")) for one in listed if isinstance(one, dict)]

    async def close(self) -> None:
        """Close the connections of the running event loop. Safe to call twice; the next request opens new ones."""
        client = self._own.take()
        if client is not None:
            await client.close()

    def _make(self) -> openai.AsyncOpenAI:
        import openai

        place = self._endpoint
        return openai.AsyncOpenAI(
            api_key=place.key(),
            base_url=place.base_url,
            timeout=place.timeout,
            max_retries=place.retries,
            # The SDK's own would try to close the sockets of a loop that is gone, and log that it cannot.
            http_client=openai.DefaultAsyncHttpxClient(timeout=place.timeout),
        )


@contextmanager
def sdk_faults(who: str) -> Iterator[None]:
    """Turn the SDK's faults into ours; no message carries the key.

    Raises:
        ConfigError: the key is refused, or the endpoint knows no such model.
        ToolError: the endpoint refuses this request, or does not answer.
    """
    import openai

    try:
        yield
    except (openai.AuthenticationError, openai.PermissionDeniedError) as fault:
        raise ConfigError(f"{who} refuses the key (HTTP {fault.status_code}): check the endpoint's api_key") from None
    except openai.NotFoundError as fault:
        raise ConfigError(
            f"{who} is not served there ({first_line(fault)}): check model and base_url, which ends in /v1"
        ) from None
    except (openai.BadRequestError, openai.UnprocessableEntityError) as fault:
        raise ToolError(f"{who} refuses this request: {first_line(fault)}") from None
    except openai.APITimeoutError:
        raise ToolError(f"{who} did not answer in time: raise the endpoint's timeout") from None
    except openai.APIConnectionError as fault:
        why = first_line(fault.__cause__ or fault)
        raise ToolError(f"{who} did not answer ({why}): check its address, and that it runs") from None
    except openai.OpenAIError as fault:
        raise ToolError(f"{who} did not answer ({first_line(fault)}): try again later") from None
