"""The requests of OpenAI's SDK, made quickly: a conversation with images is megabytes of text in every turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import PydanticSerializationError, to_json

from agentfly.files import encodable

if TYPE_CHECKING:
    import openai
    from openai._models import FinalRequestOptions


def create_of(client: object) -> Callable[..., Awaitable[Any]]:
    """Return `chat.completions.create` of a client, without the SDK's walk through the messages.

    The SDK asks of every field of every message whether its type needs a conversion. Ours are JSON already, and the
    walk takes longer than all else that is done for a request with a few images. The fields of `extra_body` are spared.

    Args:
        client: of the SDK; one of another library, with the same method, gets its arguments as they are.
    """
    import openai

    completions = cast("openai.AsyncOpenAI", client).chat.completions
    create = cast("Callable[..., Awaitable[Any]]", completions.create)
    if not isinstance(client, openai.AsyncOpenAI):
        return create

    def create_as_is(**body: object) -> Awaitable[Any]:
        extra = body.pop("extra_body", None)
        as_is = {name: body.pop(name) for name in ("messages", "tools") if name in body}
        more = extra if isinstance(extra, Mapping) else {}
        return create(**body, messages=(), extra_body={**as_is, **more})

    return create_as_is


def new_client(base_url: str | None, key: str, *, timeout: float, retries: int) -> openai.AsyncOpenAI:
    """Return a client of the SDK, which sends every text, also one that no UTF-8 can carry, and writes JSON quickly.

    Args:
        base_url: address up to and including /v1; None for OpenAI's.
        key: to send.
        timeout: seconds for a request.
        retries: attempts after the first.
    """
    import openai

    class Client(openai.AsyncOpenAI):
        """The client; the SDK is imported when one is made."""

        async def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
            whole = None
            if options.files is None and isinstance(options.json_data, dict):
                whole = _json_of({**options.json_data, **(options.extra_json or {})})
            if whole is not None:
                options.json_data, options.extra_json = whole, None
            else:
                options.json_data = encodable(options.json_data)
                options.extra_json = encodable(options.extra_json)
            return await super()._prepare_options(options)

    return Client(
        api_key=key,
        base_url=base_url,
        timeout=timeout,
        max_retries=retries,
        # The SDK's own would try to close the sockets of a loop that is gone, and log that it cannot.
        http_client=openai.DefaultAsyncHttpxClient(timeout=timeout),
    )


def _json_of(body: dict[Any, Any]) -> bytes | None:
    """Return a body as JSON; None for one that is left to the SDK.

    Pydantic writes the long texts of images in a tenth of the time of the standard library.
    """
    with suppress(PydanticSerializationError):
        return to_json(body)
    # Half of a surrogate pair is rare, and a look for it in every text of a long conversation takes a while.
    with suppress(PydanticSerializationError):
        return to_json(encodable(body))
    return None
