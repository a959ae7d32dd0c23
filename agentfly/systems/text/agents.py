"""Agents of one call: they send a prompt to a model and return its whole answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from agentfly.agents.llm_backends import LLMBackend
from agentfly.systems.text.model import BaseModel, ChatMessage, as_model
from agentfly.systems.text.replies import gather


class BaseAgent(ABC):
    """An agent with a model; subclass it for a task of its own.

    Args:
        agent_id: name of the agent.
        model: a model, or any LLM backend.
        system_prompt: first message of every call; None for none.
    """

    def __init__(self, agent_id: str, model: BaseModel | LLMBackend, *, system_prompt: str | None = None) -> None:
        self.agent_id = agent_id
        self.model = as_model(model)
        self.system_prompt = system_prompt

    @abstractmethod
    async def run(self, prompt: str, *, output_path: str | Path | None = None, **kwargs: object) -> str:
        """Return the answer to a prompt.

        Args:
            prompt: of the user.
            output_path: file that grows as the answer comes; an answer that breaks off is left as `NAME.partial`.
            kwargs: `temperature`, `max_tokens` and the like; see `BaseModel.call_stream`.

        Raises:
            BackendError: the model gave no whole answer.
        """

    async def _stream_and_aggregate(self, prompt: str, output_path: str | Path | None = None, **kwargs: object) -> str:
        """Stream the answer to one user message and return it whole; subclasses may call it, as it is documented."""
        messages: list[ChatMessage] = [{"role": "user", "content": prompt}]
        if self.system_prompt:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        file = None if output_path is None else Path(output_path).expanduser()
        return await gather(self.model, messages, file, **kwargs)


class BasicAgent(BaseAgent):
    """An agent that sends the prompt as it is."""

    async def run(self, prompt: str, *, output_path: str | Path | None = None, **kwargs: object) -> str:
        """Return the answer to a prompt; see `BaseAgent.run`."""
        return await self._stream_and_aggregate(prompt, output_path, **kwargs)


class ContextAgent(BaseAgent):
    """An agent that puts a context before every prompt.

    Args:
        agent_id, model, system_prompt: see `BaseAgent`.
        context: knowledge for the model.
    """

    def __init__(
        self, agent_id: str, model: BaseModel | LLMBackend, context: str, *, system_prompt: str | None = None
    ) -> None:
        super().__init__(agent_id, model, system_prompt=system_prompt)
        self.context = context

    async def run(self, prompt: str, *, output_path: str | Path | None = None, **kwargs: object) -> str:
        """Return the answer to context and prompt; see `BaseAgent.run`."""
        whole = f"Context:\n{self.context.strip()}\n\n{prompt}" if self.context.strip() else prompt
        return await self._stream_and_aggregate(whole, output_path, **kwargs)
