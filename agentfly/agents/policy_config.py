"""`agentfly.json` beside a policy's weights: the settings that it was trained with as an agent."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from agentfly.agents.image_editing import SYSTEM_PROMPT
from agentfly.agents.spec import AgentSpec, Named
from agentfly.errors import ConfigError
from agentfly.redaction import public_settings

FILE_NAME = "agentfly.json"


class PolicyConfig(BaseModel):
    """Settings to run a policy as an agent. The defaults suit a model that was not trained here.

    Attributes:
        system_prompt: first message of a chain, None for none.
        max_turns: generations at most.
        max_tokens_per_turn: of one generation.
        agent, tools: see `agentfly.agents.spec`; None stands for the image-editing agent and its own tools.
        reward: "module:function" of the reward that it was trained with, None for an evaluator. Nothing reads it but
            people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system_prompt: str | None = SYSTEM_PROMPT
    max_turns: int = 8
    max_tokens_per_turn: int = 1024
    agent: Named | None = None
    tools: tuple[Named, ...] | None = None
    reward: str | None = None

    @property
    def spec(self) -> AgentSpec:
        """The agent that the policy was trained as."""
        return AgentSpec(agent=self.agent, tools=self.tools)

    def write(self, policy: Path) -> None:
        """Write the file into a policy folder, which others get: secrets of addresses and commands become asterisks."""
        named = {name: getattr(self, name) for name in ("agent", "tools", "reward")}
        public = public_settings({name: value for name, value in named.items() if value is not None})
        text = json.dumps(self.model_dump(mode="json", exclude=set(named)) | public, indent=2, ensure_ascii=False)
        (policy / FILE_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, model: str) -> PolicyConfig:
        """Return the settings of a policy folder; the defaults where it has none.

        Raises:
            ConfigError: the file is there but cannot be used.
        """
        path = Path(model) / FILE_NAME
        if not path.is_file():
            return cls()
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as fault:
            first = fault.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"{path} is not valid: {place}{': ' * bool(place)}{first['msg']}; remove or mend it"
            ) from fault
