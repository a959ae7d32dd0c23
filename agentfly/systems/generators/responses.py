"""A client of OpenAI's Responses and Conversations APIs that counts usage and raises the errors of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentfly.errors import BackendError, ConfigError, ToolError
from agentfly.openai_client import ApiFault, Endpoint, SdkClient
from agentfly.systems.generators.base import Usage

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
        with self._sdk.translated_faults(f"the model {self.model}", service_error):
            reply = await self._sdk.get().responses.create(model=self.model, **arguments)
        if not isinstance(reply, Response) or not isinstance(reply.output, list):
            raise BackendError(f"the model {self.model} sent no response: check that base_url ends in /v1")
        if reply.usage is not None:
            usage.add(Usage(0, reply.usage.input_tokens or 0, reply.usage.output_tokens or 0))
        return reply

    async def open_conversation(self) -> str | None:
        """Begin a conversation and return its id; None from a server that has no conversations."""
        import openai

        with self._sdk.translated_faults("the Conversations API", service_error):
            sdk = self._sdk.get()
            try:
                return (await sdk.conversations.create()).id
            except (openai.NotFoundError, openai.BadRequestError, openai.UnprocessableEntityError):
                return None

    async def close(self) -> None:
        """Close the connections."""
        await self._sdk.close()


def service_error(fault: ApiFault) -> ConfigError | ToolError | BackendError:
    """Return the exception of a failed request.

    It is a `ConfigError` for a refused key or an unknown model, a `ToolError` for a refused request (moderation, a
    wrong field), and a `BackendError` for a server that does not answer.
    """
    if fault.kind in ("key_refused", "not_found"):
        return ConfigError(fault.message)
    if fault.kind == "refused":
        named = fault.code is None or fault.code in fault.message
        return ToolError(fault.message if named else f"{fault.message} ({fault.code})")
    return BackendError(fault.message, retryable=fault.retryable)


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
