"""Convert between the project's messages and the JSON of an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby
from typing import TYPE_CHECKING, Any

from agentfly.agents.llm_backends.base import FinishReason, Generation, GenerationRequest
from agentfly.errors import BackendError
from agentfly.files import encodable
from agentfly.images import DataUris
from agentfly.lenient_json import count_of
from agentfly.messages import ImagePart, Message, Part, TextPart, text_message
from agentfly.openai_compat import FAILED_FINISHES, split_content
from agentfly.tools.parsing import native_call

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
    from openai.types.chat.chat_completion import Choice
    from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
    from openai.types.chat.chat_completion_chunk import ChoiceDelta
    from openai.types.completion_usage import CompletionUsage

_FINISH: dict[str, FinishReason] = {
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
    **dict.fromkeys(
        (*FAILED_FINISHES, "abort", "content_filter", "safety", "recitation", "prohibited_content"), "abort"
    ),
}
_LONGEST_NAME = 80
_TOOLS_TEXT = (
    "You can call tools. These are their JSON schemas, one a line:\n<tools>\n{schemas}\n</tools>\n\n"
    "To call one, write its name and arguments as JSON between tags, and nothing after them:\n"
    '<tool_call>\n{{"name": "...", "arguments": {{...}}}}\n</tool_call>'
)


@dataclass
class _Call:
    """A native call, as far as its fragments have come.

    Attributes:
        index: its place in the turn as the server counts; several calls may have the same one.
        id, name: empty until they come.
        arguments: as JSON text.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""

    @property
    def complete(self) -> bool:
        """True when the arguments are a whole JSON object."""
        if not self.arguments.rstrip().endswith("}"):
            return False
        try:
            json.loads(self.arguments)
        except (ValueError, RecursionError):
            return False
        return True


@dataclass
class Reply:
    """The part of an answer that has come so far.

    A server with a reasoning parser sends thoughts apart from the content. They are put back before it, in the
    `<think>` tags of the models themselves, so that a text is the same whatever the server parses.

    Attributes:
        texts: pieces of the text.
        thinking: True while a thought has begun and not ended.
        calls: native calls, in the order in which they began.
        finish, usage: as the server gave them.
        prompt_ids, token_ids, logprobs: of a vLLM server that was asked for them; `prompt_checked` when compared.
    """

    texts: list[str] = field(default_factory=list)
    thinking: bool = False
    calls: list[_Call] = field(default_factory=list)
    finish: str | None = None
    usage: CompletionUsage | None = None
    prompt_ids: list[int] | None = None
    prompt_checked: bool = False
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def read_answer(self, answer: ChatCompletion) -> None:
        """Add a whole answer of the SDK."""
        choice = answer.choices[0]
        if text := self._text(choice.message, choice.finish_reason):
            self.texts.append(text)
        for index, call in enumerate(_entries(choice.message.tool_calls)):
            self.calls.append(_fragment(call, index))
        self.finish, self.usage = _finish(choice), answer.usage
        self._add_tokens(answer, choice)

    def read_chunk(self, chunk: ChatCompletionChunk) -> str:
        """Add one piece of a streamed answer of the SDK and return its text."""
        text = ""
        self.usage = chunk.usage or self.usage
        for choice in (chunk.choices or ())[:1]:
            # The last piece of some servers has none.
            delta: ChoiceDelta | None = choice.delta
            if not delta:
                text = self._joined("", "", over=False, finish=choice.finish_reason)
            else:
                text = self._text(delta, choice.finish_reason)
                if delta.tool_calls:
                    self._add_fragments(_entries(delta.tool_calls))
            if choice.finish_reason:
                self.finish = _finish(choice) or self.finish
            self._add_tokens(chunk, choice)
        if text:
            self.texts.append(text)
        return text

    @property
    def failed(self) -> bool:
        """True when the server says that it failed in the middle of the turn."""
        return (self.finish or "").lower() in FAILED_FINISHES

    def generation(self) -> Generation:
        """Return the reply in the project's own form. The ids of its calls are unique."""
        ids = _UniqueIds()
        calls = []
        for number, call in enumerate(sorted(self.calls, key=lambda call: call.index)):
            call_id = ids.take(call.id or f"call_{number}")
            calls.append(native_call(call_id, call.name, _whole_pairs(call.arguments)))
        return Generation(
            text=encodable(_whole_pairs("".join(self.texts))),
            finish_reason=_FINISH.get((self.finish or "stop").lower(), "stop"),
            tool_calls=tuple(calls) or None,
            prompt_tokens=count_of(self.usage, "prompt_tokens"),
            completion_tokens=count_of(self.usage, "completion_tokens"),
        )

    def _text(self, message: ChatCompletionMessage | ChoiceDelta, finish: str | None) -> str:
        """Return the text of a message, or of a piece of one, with its thoughts."""
        given: object = message.content
        if given and isinstance(given, str) and not self.thinking and not message.model_extra:
            return given  # nearly every piece of a stream
        thought, content = split_content(given)
        if not content and isinstance(message.refusal, str):
            content = message.refusal
        if more := message.model_extra:
            thought = "".join(split_content(more.get("reasoning_content") or more.get("reasoning"))) or thought
        return self._joined(thought, content, over=bool(message.tool_calls), finish=finish)

    def _joined(self, thought: str, content: str, *, over: bool, finish: str | None) -> str:
        """Return content with the thought before it. `over` says that no more of the thought can come."""
        text = ""
        if thought:
            text = thought if self.thinking else f"<think>{thought}"
            self.thinking = True
        # A thought that was cut off stays open, as it does in the text of a server without a parser.
        ended = finish is not None and _FINISH.get(str(finish).lower()) != "length"
        if self.thinking and (content or over or ended):
            self.thinking = False
            return f"{text}</think>{content}"
        return text + content

    def _add_fragments(self, entries: Sequence[Any]) -> None:
        """Add the calls, and pieces of calls, of one piece of a stream. Each that has a name is another call."""
        touched: list[_Call] = []
        for entry in entries:
            index = getattr(entry, "index", None)
            if self._goes_on(entry, index):
                continue
            new = _fragment(entry, index if isinstance(index, int) else None)
            call = self._continued(new, counted=isinstance(index, int))
            if call is None or (new.name and any(call is other for other in touched)):
                self.calls.append(new)
                touched.append(new)
                continue
            touched.append(call)
            call.id = call.id or new.id
            # A name may come in pieces before the arguments, and some servers repeat it with each of them.
            call.name += "" if new.name == call.name else new.name
            call.arguments += new.arguments

    def _goes_on(self, entry: Any, index: object) -> bool:
        """Add the ordinary next piece of the last call: arguments and no name. Return False for anything else."""
        function = entry.function
        if function is None or entry.id or function.name or not isinstance(function.arguments, str):
            return False
        if not self.calls or self.calls[-1].index != index:
            return False
        self.calls[-1].arguments += function.arguments
        return True

    def _continued(self, new: _Call, *, counted: bool) -> _Call | None:
        """Return the call that a fragment continues; None if the fragment begins a call.

        Args:
            new: the fragment; without an index of its own it has that of the last call.
            counted: the fragment has an index.
        """
        last = self.calls[-1].index if self.calls else 0
        if not counted:
            new.index = last
        place = [call for call in self.calls if call.index == new.index]
        if not place:
            return None
        if new.id and (same := [call for call in place if call.id == new.id]):
            place = same
        call = place[-1]
        if not new.name:
            # Some servers send another id with each fragment. A call of its own would have a name.
            return call
        if new.id and call.id and new.id != call.id:
            return None
        if new.name == call.name:
            return None if new.arguments.lstrip().startswith("{") and call.complete else call
        # With an index the server says that this is one call; without it only a call without a name can go on.
        return call if not call.arguments and (counted or not call.name) else None

    def _add_tokens(self, answer: ChatCompletion | ChatCompletionChunk, choice: Choice | ChunkChoice) -> None:
        # vLLM's own fields, which the SDK keeps beside OpenAI's.
        self.prompt_ids = (answer.model_extra or {}).get("prompt_token_ids") or self.prompt_ids
        self.token_ids += (choice.model_extra or {}).get("token_ids") or ()
        told = getattr(choice.logprobs, "content", None)
        if isinstance(told, list):
            self.logprobs += [entry.logprob for entry in told if hasattr(entry, "logprob")]


class _UniqueIds:
    """The ids of calls, each given once.

    Args:
        kept: ids that no other one may become.
    """

    def __init__(self, kept: Iterable[str] = ()) -> None:
        self._kept, self._given = frozenset(kept), set[str]()
        self._copies: dict[str, Iterator[int]] = {}

    def take(self, wanted: str) -> str:
        """Return `wanted` the first time, and another id made of it from then on."""
        given = wanted
        while given in self._given or (given != wanted and given in self._kept):
            given = f"{wanted}_{next(self._copies.setdefault(wanted, count(2)))}"
        self._given.add(given)
        return given


def _whole_pairs(text: str) -> str:
    """Return a text in which two halves of a surrogate pair, of one piece of a stream each, are one character again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


def _entries(calls: object) -> Sequence[Any]:
    """Return the entries of a `tool_calls`, which should be a list of objects or null."""
    return [call for call in calls if hasattr(call, "function")] if isinstance(calls, list) else ()


def _fragment(call: object, index: int | None) -> _Call:
    """Return a call, or a fragment of one, of the SDK; arguments that are no text become JSON text."""
    # A call that is not wrapped in `function` has its name and arguments beside the id.
    function = getattr(call, "function", None) or call
    call_id, name = getattr(call, "id", None), getattr(function, "name", None)
    arguments = getattr(function, "arguments", None)
    if arguments is not None and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return _Call(
        index or 0,
        call_id if isinstance(call_id, str) else "",
        name if isinstance(name, str) else "",
        arguments or "",
    )


def _finish(choice: Choice | ChunkChoice) -> str | None:
    reason: object = choice.finish_reason
    return reason if isinstance(reason, str) and reason else None


def wire_messages(messages: Sequence[Message], urls: Mapping[str, str]) -> list[Mapping[str, object]]:
    """Return messages as the endpoint takes them.

    The API has no images in `tool` messages: the text stays there, and the images follow in a user message after
    the run of tool messages that they belong to. Each image stands behind the beginning of the text before it, which
    names it. The ids of calls are unique over the whole conversation, as Claude wants them.

    Args:
        messages: the conversation.
        urls: data URI of each image handle.
    """
    out: list[Mapping[str, object]] = []
    waiting: list[Part] = []

    def flush() -> None:
        if waiting:
            note = TextPart("Images of the tool results above, in order:")
            out.append(Message("user", (note, *waiting)).to_openai(urls.__getitem__))
            waiting.clear()

    for message in _with_unique_ids(messages):
        if message.role != "tool":
            flush()
            out.append(message.to_openai(urls.__getitem__))
            continue
        for before, part in zip((None, *message.parts), message.parts, strict=False):
            if isinstance(part, ImagePart):
                if isinstance(before, TextPart):
                    waiting.append(TextPart(f"\n{before.text[:_LONGEST_NAME]}\n"))
                waiting.append(part)
        texts = tuple(part for part in message.parts if isinstance(part, TextPart))
        out.append(Message("tool", texts, tool_call_id=message.tool_call_id).to_openai(urls.__getitem__))
    flush()
    return out


def _with_unique_ids(messages: Sequence[Message]) -> Sequence[Message]:
    """Return messages in which no two calls have one id, and each result has the id of its call.

    The first call with an id keeps it, so ids do not change when the conversation goes on.
    """
    ids = [call.id for message in messages for call in message.tool_calls]
    if len(set(ids)) == len(ids):
        return messages
    unique = _UniqueIds(ids)
    out: list[Message] = []
    # By their id, the calls of the last message that has such calls; those without a result yet come first.
    open_calls: dict[str, list[str]] = {}
    for message in messages:
        if message.tool_calls:
            calls = tuple(replace(call, id=unique.take(call.id)) for call in message.tool_calls)
            open_calls |= {call.id: [] for call in message.tool_calls}
            for before, after in zip(message.tool_calls, calls, strict=True):
                open_calls[before.id].append(after.id)
            out.append(replace(message, tool_calls=calls))
        elif message.tool_call_id in open_calls:
            names = open_calls[message.tool_call_id]
            out.append(replace(message, tool_call_id=names.pop(0) if len(names) > 1 else names[0]))
        else:
            out.append(message)
    return out


def tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[Message]:
    """Return the conversation for a server without tools.

    Args:
        messages: the conversation; its calls and results become text.
        tools: OpenAI tool schemas, which become part of the system message.
    """
    described = _TOOLS_TEXT.format(schemas="\n".join(json.dumps(dict(tool), ensure_ascii=False) for tool in tools))
    out: list[Message] = []
    for is_tool, run in groupby(messages, lambda message: message.role == "tool"):
        if is_tool:
            parts: list[Part] = []
            for message in run:
                parts += (TextPart("<tool_response>\n"), *message.parts, TextPart("\n</tool_response>\n"))
            out.append(Message("user", tuple(parts)))
            continue
        for message in run:
            bodies = ({"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls)
            texts = (json.dumps(body, ensure_ascii=False) for body in bodies)
            calls = (TextPart(f"\n<tool_call>\n{text}\n</tool_call>") for text in texts)
            out.append(Message(message.role, (*message.parts, *calls)))
    if out and out[0].role == "system":
        return [Message("system", (*out[0].parts, TextPart(f"\n\n{described}"))), *out[1:]]
    return [text_message("system", described), *out]


async def image_urls(request: GenerationRequest, uris: DataUris) -> dict[str, str]:
    """Return the data URI (PNG) of each image of the conversation.

    Args:
        request: the conversation.
        uris: keeps those of earlier turns.

    Raises:
        BackendError: there are images, but no `load_image`.
    """
    handles = [handle for message in request.messages for handle in message.images]
    load = request.load_image
    if not handles:
        return {}
    if load is None:
        raise BackendError("the conversation has images, but the request has no load_image")
    return await uris.of(handles, load)
