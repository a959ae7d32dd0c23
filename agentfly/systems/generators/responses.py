"""A client of OpenAI's Responses and Conversations APIs that counts usage and raises the errors of this package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentfly.errors import BackendError, ToolError, first_line
from agentfly.openai_client import Endpoint, SdkClient, sdk_faults
from agentfly.systems.generators.usage import Usage

if TYPE_CHECKING:
    from openai.types.responses import Response


class ResponsesClient:
    """One model behind `/v1/responses`.

    Args:
        model: its name on the server.
        endpoint: address and key of the server.
    """

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        self.model = model
        self._endpoint = endpoint
        self._sdk = SdkClient(endpoint)

    async def create(self, usage: Usage, **arguments: Any) -> Response:
        """Request one response.

        Args:
            usage: account that the request and its tokens are added to.
            arguments: arguments of `responses.create`, without the model.

        Raises:
            BackendError: the server did not answer, or did not send a response.
            ToolError: the server refuses the request (moderation, a wrong field).
            ConfigError: the key or the model is refused.
        """
        from openai.types.responses import Response

        usage.requests += 1
        with service_faults(f"the model {self.model}", self._endpoint.timeout):
            reply = await self._sdk.get().responses.create(model=self.model, **arguments)
        if not isinstance(reply, Response) or not isinstance(reply.output, list):
            raise BackendError(f"the model {self.model} sent no response: check that base_url ends in /v1")
        if reply.usage is not None:
            usage.add(Usage(0, reply.usage.input_tokens or 0, reply.usage.output_tokens or 0))
        return reply

    async def open_conversation(self) -> str | None:
        """Begin a conversation and return its id; None from a server that has no conversations."""
        import openai

        with service_faults("the Conversations API", self._endpoint.timeout):
            sdk = self._sdk.get()
            try:
                return (await sdk.conversations.create()).id
            except (openai.NotFoundError, openai.BadRequestError, openai.UnprocessableEntityError):
                return None

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()


@contextmanager
def service_faults(who: str, timeout: float) -> Iterator[None]:
    """Turn the SDK's faults into ours: a refusal becomes `ToolError`, silence a retryable `BackendError`.

    Raises:
        BackendError: no answer, or none that can be read.
        ToolError: the request is refused.
        ConfigError: the key or the model is refused.
    """
    import openai

    with sdk_faults(who):
        try:
            yield
        except openai.BadRequestError as fault:
            code = f"{fault.code}: " if fault.code else ""
            raise ToolError(f"{who} refuses this request: {code}{first_line(fault)}") from None
        except openai.APITimeoutError:
            raise BackendError(f"{who} did not answer within {timeout:g} s: raise timeout", retryable=True) from None
        except openai.APIConnectionError as fault:
            why = first_line(fault.__cause__ or fault)
            told = f"{who} did not answer ({why}): check its address, and that it runs"
            raise BackendError(told, retryable=True) from None
        except (openai.InternalServerError, openai.RateLimitError) as fault:
            raise BackendError(f"{who} did not answer ({first_line(fault)}): try again later", retryable=True) from None
        except json.JSONDecodeError:
            raise BackendError(f"{who} sent no JSON: check that base_url ends in /v1") from None


def text_of(reply: Response) -> str:
    """Return the text of a response.

    Raises:
        ToolError: there is none; the message has the server's reason.
    """
    text = reply.output_text.strip()
    if text:
        return text
    raise ToolError(reason_for_nothing(reply))


def reason_for_nothing(reply: Response) -> str:
    """Return the reason, in one line, that a response has no image and no text."""
    if reply.error is not None:
        return f"the model failed: {reply.error.message}"
    for item in reply.output:
        if item.type == "image_generation_call" and item.error is not None:
            return f"the image was refused: {item.error.message or item.error}"
        if item.type == "message":
            for part in item.content:
                if part.type == "refusal":
                    return f"the model refused: {part.refusal}"
    if reply.incomplete_details is not None:
        return f"the answer is incomplete: {reply.incomplete_details.reason}"
    said = " ".join(reply.output_text.split())
    return f"the model made nothing and said: {said[:300]}" if said else "the model made nothing and gave no reason"
