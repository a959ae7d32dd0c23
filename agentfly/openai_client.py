"""Clients of OpenAI-compatible endpoints, and the one translation of the SDK's exceptions.

`read_fault` turns an exception into an `ApiFault`. Each caller builds its own exception from that: `tool_error` for
engines, `BackendError` for chat backends, `EvaluatorError` for the judge.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from agentfly.aio import LoopLocal
from agentfly.errors import ConfigError, ToolError, short_paths, unknown_name
from agentfly.openai_compat import Fallbacks, check_answer, status_of, words_of
from agentfly.openai_requests import create_of, new_client
from agentfly.redaction import ApiKey, public_url, read_key, redact
from agentfly.settings import BaseUrl, Settings

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

FaultKind = Literal[
    "timeout",
    "unreachable",
    "key_refused",
    "not_found",
    "refused",
    "no_quota",
    "rate_limit",
    "server_error",
    "no_json",
    "other",
]

# The SDK lets these through where a body is no JSON, is no text, or is nested without end.
_BROKEN_JSON = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)

_LIST_SECONDS = 15.0
_RETRY_SECONDS, _LONGEST_RETRY = 0.5, 30.0
_MOST_LISTED, _LONGEST_NAME = 20, 200  # names that a message shows, and characters of a name
_LONGEST_REASON, _LONGEST_READ = 500, 100_000  # characters: of a reason, and of the answer that it is taken from
_WANTS_KEY = "api.openai.com"
_RETRYABLE: frozenset[FaultKind] = frozenset(("timeout", "unreachable", "rate_limit", "server_error", "other"))
_KINDS: Mapping[int, FaultKind] = {
    401: "key_refused",
    402: "no_quota",
    403: "key_refused",
    404: "not_found",
    408: "server_error",
    429: "rate_limit",
}
_MESSAGES: Mapping[FaultKind, str] = {
    "timeout": "{who} did not answer {limit}: raise the endpoint's timeout",
    "unreachable": "{who} did not answer ({reason}): check its address, and that it runs",
    "key_refused": "{who} refuses the key (HTTP {status}): check {key}",
    "not_found": "{who} is not served there ({reason}): check model and base_url, which ends in /v1",
    "refused": "{who} refuses this request: {reason}",
    "no_quota": "{who} has no quota left ({reason}): add to it, or use another key",
    "rate_limit": "{who} did not answer ({reason}): try again later",
    "server_error": "{who} did not answer ({reason}): try again later",
    "no_json": "{who} sent no JSON: check that base_url ends in /v1",
    "other": "{who} did not answer ({reason}): try again later",
}


@dataclass(frozen=True)
class ApiFault:
    """A failed request to an OpenAI-compatible endpoint, without the key in any text.

    Attributes:
        kind: of the failure. "server_error" includes HTTP 408; "refused" is any other status below 500; "other" is a
            failure without a status.
        message: a sentence that names the endpoint and says what to do.
        reason: the server's or the network's own words in one line.
        status: HTTP status, or the one that is named by an error in an answer of status 200 or in a stream; None where
            there is neither.
        code: the server's own name for the error, e.g. "content_policy_violation".
        retry_after: seconds that the server asks to wait before the next request; None where it does not say.
    """

    kind: FaultKind
    message: str
    reason: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None

    @property
    def retryable(self) -> bool:
        """True where the same request may succeed later."""
        return self.kind in _RETRYABLE


def read_fault(
    fault: Exception,
    who: str,
    *,
    timeout: float | None = None,
    secret: SecretStr | str | None = None,
    key: str = "its api_key",
) -> ApiFault:
    """Return an exception of the SDK as plain data.

    Args:
        fault: an `openai.OpenAIError`, or what the SDK lets through: `TimeoutError` of a caller's own time limit, and
            what a body raises that is no JSON.
        who: subject of the message, such as "the judge m" or an address.
        timeout: seconds that the request had, for the message.
        secret: the key, which is replaced by asterisks wherever a text repeats it.
        key: where the key comes from, for the message.
    """
    import openai

    code: str | None = None
    cause: BaseException = fault
    if isinstance(fault, openai.APIError):
        # A server may send a number as its code.
        code = None if fault.code is None else redact(str(fault.code), secret)
    kind, status, retry_after = _kind_of(fault)
    if kind == "unreachable":
        cause = fault.__cause__ or fault
    reason = str(cause)[:_LONGEST_READ].strip() or type(cause).__name__
    # The SDK leaves out what a server says in another place than OpenAI does.
    said = words_of(cause.body) if isinstance(cause, openai.APIError) else ()
    if more := [text for text in dict.fromkeys(said) if text not in reason]:
        reason = f"{reason} - {'; '.join(more)}"
    reason = redact(reason[:_LONGEST_READ], secret)
    reason = " ".join(short_paths(reason).split())[:_LONGEST_REASON]
    limit = "in time" if timeout is None else f"within {timeout:g} s"
    message = _MESSAGES[kind].format(who=public_url(who), reason=reason, status=status, limit=limit, key=key)
    return ApiFault(kind, message, reason, status, code, retry_after)


def is_fault(fault: Exception) -> bool:
    """Return True for what a request through the SDK may raise, for `read_fault`; False for any other exception."""
    import openai

    return isinstance(fault, TimeoutError | openai.OpenAIError) or _is_broken_json(fault)


def _is_broken_json(fault: Exception) -> bool:
    # A number of more than 4300 digits is a plain ValueError.
    return isinstance(fault, _BROKEN_JSON) or type(fault) is ValueError


def _kind_of(fault: Exception) -> tuple[FaultKind, int | None, float | None]:
    """Return the kind of a failure, the HTTP status, and the seconds to wait that the server asks for."""
    import openai

    if isinstance(fault, TimeoutError | openai.APITimeoutError):
        return "timeout", None, None
    if isinstance(fault, openai.APIConnectionError):
        return "unreachable", None, None
    if isinstance(fault, openai.APIResponseValidationError) or _is_broken_json(fault):
        return "no_json", None, None
    if not isinstance(fault, openai.APIError):
        return "other", None, None
    status: int | None
    if isinstance(fault, openai.APIStatusError):
        status, retry_after = fault.status_code, read_retry_after(fault.response.headers)
    else:
        # An error in an answer of status 200, or in a stream.
        status, retry_after = status_of(fault.body), _retry_after_in(fault.body)
    if str(fault.code) == "insufficient_quota":
        return "no_quota", status, retry_after
    if status is None:
        return "other", None, retry_after
    return _KINDS.get(status, "server_error" if status >= 500 else "refused"), status, retry_after


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header, which holds a number or a date; None where there is none."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _retry_after_in(body: object) -> float | None:
    """Return the seconds to wait that a gateway names in the body of an error, where there are no headers."""
    metadata = body.get("metadata") if isinstance(body, Mapping) else None
    headers = metadata.get("headers") if isinstance(metadata, Mapping) else None
    if not isinstance(headers, Mapping):
        return None
    return read_retry_after({str(name).lower(): str(value) for name, value in headers.items()})


def tool_error(fault: ApiFault) -> ConfigError | ToolError:
    """Return the exception of an engine: `ConfigError` for a refused key or an unknown model, else `ToolError`."""
    return (ConfigError if fault.kind in ("key_refused", "not_found") else ToolError)(fault.message)


class Endpoint(Settings):
    """Address, key and limits of a server.

    Attributes:
        base_url: address up to and including /v1; None for OpenAI's.
        api_key_env: environment variable with the key. Where it is not set, the server is taken to need none.
        api_key: the key itself, in place of `api_key_env`.
        timeout: seconds for a request.
        retries: attempts after the first, on faults that may pass; the SDK waits in between.
    """

    base_url: BaseUrl | None = None
    api_key_env: str = "OPENAI_API_KEY"
    api_key: ApiKey | None = None
    timeout: float = Field(120.0, gt=0)
    retries: int = Field(2, ge=0)

    @property
    def secret(self) -> str | None:
        """The key that was given or that the environment has; None where there is none."""
        return self.api_key.get_secret_value() if self.api_key else read_key(self.api_key_env)

    def key(self) -> str:
        """Return the key to send, which is "none" for a server that needs none.

        Raises:
            ConfigError: the server is OpenAI's, and there is no key.
        """
        key = self.secret
        if not key and (self.base_url is None or urlsplit(self.base_url).hostname == _WANTS_KEY):
            raise ConfigError(f"no API key: set {self.api_key_env}, or give base_url of a server that needs none")
        return key or "none"


class SdkClient:
    """The SDK's client for an endpoint; each event loop gets its own, since connections belong to their loop.

    Args:
        endpoint: address, key and limits.
        client: a client to use as it is, in place of one made for the endpoint; its owner closes it.
    """

    def __init__(self, endpoint: Endpoint, client: openai.AsyncOpenAI | None = None) -> None:
        self._endpoint = endpoint
        self._given = client
        self._fallbacks: dict[str, Fallbacks] = {}
        self._own = LoopLocal(self._make)

    def get(self) -> openai.AsyncOpenAI:
        """Return the client of the running event loop."""
        return self._given or self._own.get()

    def read_fault(self, fault: Exception, who: str) -> ApiFault:
        """Return an exception of this client as plain data; see `read_fault` of this module.

        Args:
            fault: the exception.
            who: subject of the message, such as "the judge m".
        """
        key = "its api_key" if self._endpoint.api_key else self._endpoint.api_key_env
        return read_fault(fault, who, timeout=self._endpoint.timeout, secret=self._secret, key=key)

    def redact(self, text: str) -> str:
        """Return a text of the server without the key, which it may repeat."""
        return redact(text, self._secret)

    @contextmanager
    def translated_faults(self, who: str, error: Callable[[ApiFault], Exception] = tool_error) -> Iterator[None]:
        """Raise this client's exceptions as our own.

        Args:
            who: subject of the messages, such as "the detector m".
            error: builds the exception from the fault. The default raises `ConfigError` for a refused key or an unknown
                model, and `ToolError` for everything else.
        """
        try:
            yield
        except Exception as fault:
            if not is_fault(fault):
                raise
            raise error(self.read_fault(fault, who)) from None

    async def complete(self, body: Mapping[str, object], timeout: float | None = None) -> ChatCompletion:
        """Return the answer of a chat endpoint. What it refuses is left out or renamed from then on; see `Fallbacks`.

        An error in an answer of status 200 is treated like an error with a status of its own.

        Args:
            body: the request; `model` names the model.
            timeout: seconds for a single request; None leaves it to the client.

        Raises:
            openai.OpenAIError: the request failed.
            TimeoutError: there was no answer in time.
        """
        import openai

        client, model = self.get(), str(body["model"])
        create = create_of(client)
        fallbacks = self._fallbacks.setdefault(model, Fallbacks(model))
        left = client.max_retries
        while True:
            sent = fallbacks.adapt(body)
            try:
                answer: object = await asyncio.wait_for(create(**sent), timeout)
                if isinstance(answer, str):
                    # What is no JSON by its header, such as the page of a login, comes as it is.
                    raise json.JSONDecodeError("a text", answer[:_LONGEST_NAME], 0)
                check_answer(answer)
                return cast("ChatCompletion", answer)
            except openai.APIError as caught:
                fault = self.read_fault(caught, model)
                if fallbacks.learn(caught, sent, fault.reason):
                    continue
                # The SDK has tried again already, unless the status was 200.
                if isinstance(caught, openai.APIStatusError | openai.APIConnectionError) or not left * fault.retryable:
                    raise
            left -= 1
            await asyncio.sleep(min(fault.retry_after or _RETRY_SECONDS, _LONGEST_RETRY))

    async def check_model(self, model: str, who: str) -> None:
        """Look for a model on the endpoint's list, which costs nothing.

        Args:
            model: its name on the server.
            who: subject of the messages, such as "the judge m".

        Raises:
            ConfigError: a key is missing or refused, or the model is not on the list.
            ToolError: the endpoint does not answer.
        """
        who = f"{who} at {public_url(self._endpoint.base_url or _WANTS_KEY)}"
        names = await self._list_models(who)
        # Some endpoints list "models/NAME" for NAME, a proxy lists patterns, and a small server may list nothing.
        if names and not any(fnmatchcase(model, name) or name.endswith(f"/{model}") for name in names):
            shown = [name[:_LONGEST_NAME] for name in names[:_MOST_LISTED]]
            raise ConfigError(f"{who} is not served there: {unknown_name('model', model, shown)}")

    async def _list_models(self, who: str) -> list[str]:
        """Return the names on the endpoint's list; none where a chat server keeps no list."""

        client = self.get().with_options(timeout=_LIST_SECONDS, max_retries=0)
        answer: object = None
        try:
            answer = await client.get("/models", cast_to=object)
        except Exception as caught:
            if not is_fault(caught):
                raise
            fault = read_fault(caught, who, timeout=_LIST_SECONDS, secret=self._secret)
            if fault.kind == "key_refused":
                key = self._endpoint.api_key_env
                raise ConfigError(f"{who} refuses the key (HTTP {fault.status}): set {key}") from None
            if fault.kind == "not_found" and str(client.base_url).rstrip("/").endswith("/v1"):
                return []
            if fault.kind != "no_json":
                raise tool_error(fault) from None
        listed = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            raise ConfigError(f"{who} gives no list of models: check base_url, which ends in /v1")
        return [str(one.get("id")) for one in listed if isinstance(one, dict)]

    async def close(self) -> None:
        """Close the connections of the running event loop. Safe to call twice; the next request opens new ones."""
        client = self._own.take()
        if client is not None:
            await client.close()

    @property
    def _secret(self) -> str | None:
        """The key that is sent."""
        return self._endpoint.secret if self._given is None else self._given.api_key

    def _make(self) -> openai.AsyncOpenAI:
        place = self._endpoint
        return new_client(place.base_url, place.key(), timeout=place.timeout, retries=place.retries)
