"""A client of OpenAI's Responses and Conversations APIs that counts usage and raises the errors of this package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentfly.errors import BackendError, ConfigError, ToolError, first_line
from agentfly.lenient_json import count_of, field_of
from agentfly.openai_client import ApiFault, Endpoint, SdkClient
from agentfly.redaction import public_url
from agentfly.systems.generators.base import Usage, nobody_listens

if TYPE_CHECKING:
    from openai.types.responses import Response

_BROKEN_OFF = ("failed", "incomplete", "cancelled")
_LACKS_CONVERSATIONS = (400, 404, 405, 422, 501)
_LONGEST_REASON = 300  # characters


class ResponsesClient:
    """One model behind `/v1/responses`.

    Args:
        model: its name on the server.
        endpoint: address and key of the server.
    """

    def __init__(self, model: str, endpoint: Endpoint) -> None:
        self.model = model
        self._sdk = SdkClient(endpoint)
        self._url = public_url(endpoint.base_url or "https://api.openai.com/v1")
        self._answered = False

    async def create(self, usage: Usage, **arguments: Any) -> Response:
        """Request one response.

        Args:
            usage: account that the request and its tokens are added to.
            arguments: arguments of `responses.create`, without the model.

        Raises:
            BackendError: the server did not answer, or did not send a response.
            ToolError: the server refuses the request (moderation, a wrong field).
            ConfigError: the key or the model is refused, or no server has ever listened at the address.
        """
        from openai.types.responses import Response

        usage.requests += 1
        with self._sdk.translated_faults(f"the model {self.model}", _responses_error), self._first_contact():
            reply = await self._sdk.get().responses.create(model=self.model, **arguments)
        if not isinstance(reply, Response) or not isinstance(reply.output, list):
            raise BackendError(f"the model {self.model} sent no response: check that base_url ends in /v1")
        usage.add(Usage(0, count_of(reply.usage, "input_tokens"), count_of(reply.usage, "output_tokens")))
        return reply

    @contextmanager
    def _first_contact(self) -> Iterator[None]:
        """Tell a wrong address from a server that is away for a moment, which is worth another attempt."""
        import openai

        try:
            yield
        except openai.APIStatusError:
            self._answered = True
            raise
        except openai.APIConnectionError as fault:
            if self._answered or not nobody_listens(fault.__cause__):
                raise
            why = self._sdk.redact(first_line(fault.__cause__ or fault))
            raise ConfigError(
                f"cannot reach {self._url} ({why}): start the server, or correct --base-url (OPENAI_BASE_URL)"
            ) from None
        self._answered = True

    async def open_conversation(self) -> str | None:
        """Begin a conversation and return its id; None from a server that has no conversations."""
        import openai

        with self._sdk.translated_faults("the Conversations API", service_error):
            try:
                opened = field_of(await self._sdk.get().conversations.create(), "id")
            except openai.APIStatusError as fault:
                if fault.status_code not in _LACKS_CONVERSATIONS:
                    raise
                return None
        return opened if isinstance(opened, str) else None

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


def _responses_error(fault: ApiFault) -> ConfigError | ToolError | BackendError:
    if fault.status in (405, 501):
        return ConfigError(
            f"{fault.message}: there is no Responses API; check base_url, or choose a generator and a prompter that do "
            "without it"
        )
    return service_error(fault)


def text_of(reply: Response) -> str:
    """Return the text of a response.

    Raises:
        ToolError: there is none, or it is not whole; the message has the server's reason.
    """
    text = "".join(_texts(reply)).strip()
    if text and field_of(reply, "status") not in _BROKEN_OFF:
        return text
    raise ToolError(reason_for_nothing(reply))


def reason_for_nothing(reply: Response) -> str:
    """Return the reason, in one line, that a response has no image and no text."""
    error = field_of(reply, "error")
    if error:
        return f"the model failed: {_words(error)}"
    for item in reply.output:
        error = field_of(item, "error")
        if field_of(item, "type") == "image_generation_call" and error:
            return f"the image was refused: {_words(error)}"
        refusals = (_words(field_of(part, "refusal")) for part in _parts(item) if field_of(part, "type") == "refusal")
        for refusal in refusals:
            return f"the model refused: {refusal}"
    details, status = field_of(reply, "incomplete_details"), field_of(reply, "status")
    if details or status in _BROKEN_OFF:
        return f"the answer is incomplete: {_words(field_of(details, 'reason') or details or status)}"
    said = " ".join(" ".join(_texts(reply)).split())
    return f"the model made nothing and said: {said[:300]}" if said else "the model made nothing and gave no reason"


def _texts(reply: Response) -> Iterator[str]:
    for item in reply.output:
        for part in _parts(item):
            text = part if isinstance(part, str) else field_of(part, "text")
            if isinstance(text, str) and field_of(part, "type") in (None, "text", "output_text"):
                yield text


def _parts(item: object) -> Sequence[object]:
    """Return the content of a message; the SDK checks no types, so that a server may have sent anything."""
    content = field_of(item, "content") if field_of(item, "type") == "message" else None
    return [content] if isinstance(content, str) else content if isinstance(content, list) else []


def _words(reason: object) -> str:
    """Return a server's reason in one line: its message, or the reason itself."""
    return " ".join(str(field_of(reason, "message") or reason or "no reason given").split())[:_LONGEST_REASON]
