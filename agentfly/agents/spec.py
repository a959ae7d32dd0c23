"""An agent and its tools by name: the settings `agent` and `tools` of every command, and where they come from.

What a person gives wins. What is not given comes from the card of the policy (`agentfly.json`), which remembers the
agent that the policy was trained as. A card is somebody's file: names of this package are taken from it, but code of
anybody's is imported, and a server is started, only for a person who asks for it with `agent: card`.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentfly.errors import ConfigError, shortened
from agentfly.settings import Settings

IMAGE_EDITING, CARD = "image-editing", "card"

Named = str | dict[str, object]


class AgentSpec(Settings):
    """An agent by name.

    Attributes:
        agent: "image-editing"; "module:Class" of a subclass of `Agent`; a mapping with either under `agent`, and
            further arguments of the class; or "card" for what the policy's card names.
        tools: see `agentfly.agents.user_tools`; the agent's own when None.
    """

    agent: Named | None = None
    tools: tuple[Named, ...] | None = None

    def over(self, card: AgentSpec, policy: str) -> AgentSpec:
        """Return these settings, with those of a policy's card where nothing is given.

        Args:
            card: of the policy.
            policy: its name, for messages.

        Raises:
            ConfigError: the card names code of somebody's that is not asked for; the message says how to.
        """
        if self.agent == CARD:
            return AgentSpec(agent=card.agent or IMAGE_EDITING, tools=card.tools if self.tools is None else self.tools)
        if self.agent is not None:
            return self
        tools = card.tools if self.tools is None else self.tools
        unasked = [card.agent, *(tools if self.tools is None and tools else ())]
        if foreign := [shortened(str(name)) for name in unasked if is_foreign(name)]:
            raise ConfigError(
                f"the policy {policy} was trained with code that is not part of agentfly: {', '.join(foreign)}. Name "
                "the agent and its tools (agent, tools), or let the card name them with agent=card, if you know who "
                "wrote it"
            )
        return AgentSpec(agent=card.agent, tools=tools)

    @property
    def label(self) -> str:
        """The agent in a table: "image-editing", or the name of the class or function."""
        address, _ = self.address_and_options()
        return address.rpartition(":")[2]

    def address_and_options(self) -> tuple[str, Mapping[str, object]]:
        """Return the name of the agent, and its further arguments.

        Raises:
            ConfigError: a mapping has no name under `agent`.
        """
        if not isinstance(self.agent, dict):
            return self.agent or IMAGE_EDITING, {}
        options = dict(self.agent)
        address = options.pop("agent", None)
        if not isinstance(address, str):
            raise ConfigError('an agent with arguments is written {"agent": "module:Class", ...}')
        return address, options


DEFAULT = AgentSpec()  # the image-editing agent with its own tools


def is_foreign(named: Named | None) -> bool:
    """Return True for a name that imports a module, starts a server, or comes with arguments."""
    return isinstance(named, Mapping) or (named is not None and ":" in named)
