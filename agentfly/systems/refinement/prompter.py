"""Write the next prompt from the feedback on the last image; each loop has its own conversation.

At OpenAI the server keeps the conversation (Conversations API; linked responses if a server has no conversations). For
any other chat endpoint it is kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from agentfly.agents.llm_backends import GenerationRequest, LLMBackend, SamplingParams
from agentfly.errors import ToolError
from agentfly.evaluators import Rubric
from agentfly.images import ImageStore
from agentfly.messages import Message, text_message, without_thoughts
from agentfly.systems.generators.base import Usage
from agentfly.systems.generators.responses import ResponsesClient, text_of

_INSTRUCTIONS = """You write prompts for a model that makes images. You are told what a person wishes, the prompt of \
the last image, and what a judge said of that image. Write the next prompt.

Keep everything that the person wishes, and what was good. Say in concrete, visible terms what has to change: subject, \
materials, light, background, composition. Where the last prompt was refused, say the same wish in words that give no \
reason for it. Answer with the prompt alone: no introduction, no quotation marks."""
_MAX_TOKENS = 4096


@dataclass(frozen=True)
class Critique:
    """The outcome of the last prompt.

    Attributes:
        score: of its image, 0 to 100; None where it was not judged.
        feedback: of the judge.
        fault: the reason that there is no image, or no score; None where there are both.
    """

    score: float | None = None
    feedback: str = ""
    fault: str | None = None

    def words(self) -> str:
        """Return the critique in words, for the writer of the next prompt."""
        if self.fault is not None:
            return f"It did not come to a judgement: {self.fault}"
        scored = "" if self.score is None else f"The image scored {self.score:.0f} of 100. "
        return f"{scored}The judge: {self.feedback or 'no comment'}"


class Prompter(Protocol):
    """A conversation about one wish.

    Attributes:
        thread_id: of the conversation; None before it began, and where there is none.
        usage: requests and tokens so far.
    """

    thread_id: str | None
    usage: Usage

    async def refine(self, wish: str, prompt: str, critique: Critique) -> str:
        """Write the next prompt.

        Args:
            wish: of the user.
            prompt: the last one.
            critique: its outcome.

        Raises:
            BackendError: the model did not answer.
            ToolError: the model refused, or its answer is empty.
            ConfigError: the key or the model is refused.
        """
        ...


NewPrompter = Callable[[], Prompter]


class ResponsesPrompter:
    """A prompter whose conversation the server keeps.

    Args:
        client: asks the model.
        rubric: criteria of the domain.
    """

    def __init__(self, client: ResponsesClient, rubric: Rubric | None = None) -> None:
        self.thread_id: str | None = None
        self.usage = Usage()
        self._client, self._instructions = client, instructions(rubric)
        self._link: dict[str, str] | None = None

    async def refine(self, wish: str, prompt: str, critique: Critique) -> str:
        """Write the next prompt; see `Prompter`."""
        if self._link is None:
            self.thread_id = await self._client.open_conversation()
            self._link = {} if self.thread_id is None else {"conversation": self.thread_id}
        asked = [{"role": "user", "content": question(wish, prompt, critique)}]
        reply = await self._client.create(self.usage, instructions=self._instructions, input=asked, **self._link)
        prompt = bare(text_of(reply))
        # Nothing goes on from a response that failed or was cut off.
        if "conversation" not in self._link:
            self.thread_id = self.thread_id or reply.id
            self._link = {"previous_response_id": reply.id}
        return prompt


class ChatPrompter:
    """A prompter that keeps its conversation here, on any LLM backend.

    Args:
        backend: asks the model.
        rubric: criteria of the domain.
    """

    def __init__(self, backend: LLMBackend, rubric: Rubric | None = None) -> None:
        self.thread_id: str | None = None
        self.usage = Usage()
        self._backend = backend
        self._messages: list[Message] = [text_message("system", instructions(rubric))]

    async def refine(self, wish: str, prompt: str, critique: Critique) -> str:
        """Write the next prompt; see `Prompter`."""
        self.thread_id = self.thread_id or f"conv_{uuid4().hex}"
        asked = text_message("user", question(wish, prompt, critique))
        messages = (*self._messages, asked)
        codec = self._backend.codec
        # The messages have no images, so the store is empty.
        ids = () if codec is None else codec.prompt_ids(messages, (), ImageStore().get)
        request = GenerationRequest(
            uuid4().hex, self.thread_id, messages, (), SamplingParams(max_tokens=_MAX_TOKENS), prompt_ids=ids
        )
        self.usage.requests += 1
        generation = await self._backend.generate(request)
        self.usage.add(Usage(0, generation.prompt_tokens, generation.completion_tokens))
        text = bare(generation.text)
        # A question without an answer is not kept, or the roles would no longer alternate.
        self._messages += [asked, text_message("assistant", text)]
        return text


class FeedbackPrompter:
    """A prompter without a model: it appends the feedback to the wish.

    There is no conversation, so there is no thread.
    """

    def __init__(self) -> None:
        self.thread_id: str | None = None
        self.usage = Usage()

    async def refine(self, wish: str, prompt: str, critique: Critique) -> str:
        """Return the wish with the feedback behind it; the wish alone where there is none."""
        return f"{wish}\nMind this: {critique.feedback}" if critique.feedback and critique.fault is None else wish


def instructions(rubric: Rubric | None) -> str:
    """Return the instructions of a prompter, with the criteria of a rubric."""
    return _INSTRUCTIONS if rubric is None else f"{_INSTRUCTIONS}\n\n{rubric.for_prompter()}"


def question(wish: str, prompt: str, critique: Critique) -> str:
    """Return the loop's side of one round of the conversation."""
    return f"The wish:\n{wish}\n\nThe last prompt:\n{prompt}\n\n{critique.words()}"


def bare(text: str) -> str:
    """Return a prompt without the reasoning before it and the quotation marks around it.

    Raises:
        ToolError: nothing is left.
    """
    prompt = without_thoughts(text)
    for left, right in (('"', '"'), ("“", "”"), ("'", "'")):
        if len(prompt) > 1 and prompt.startswith(left) and prompt.endswith(right):
            prompt = prompt[1:-1].strip()
    if not prompt:
        raise ToolError("the prompter said nothing: raise its limit of tokens, or use another model")
    return prompt
