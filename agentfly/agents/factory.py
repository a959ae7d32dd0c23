"""The one place where agents are made from names: for editing, evaluation, training, and all that checks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from typing_extensions import Unpack

from agentfly.agents.agent import Agent, AgentArguments
from agentfly.agents.image_editing import ImageEditingAgent
from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.spec import IMAGE_EDITING, AgentSpec
from agentfly.errors import ConfigError
from agentfly.images import ImageStore, ImageView
from agentfly.importing import described, import_object
from agentfly.vision import Engines, make_engines
from agentfly.vision.remote.settings import NodeSpecs


def make_agent(
    spec: AgentSpec,
    model: str,
    *,
    engines: Engines | str | Mapping[str, object] | None = None,
    client_nodes: NodeSpecs | None = None,
    **arguments: Unpack[AgentArguments],
) -> Agent:
    """Make the agent that a spec names, and check its tools.

    Args:
        spec: with the card of the policy taken in (`AgentSpec.over`).
        model: checkpoint folder, hub name, or the model name of an endpoint.
        engines, client_nodes: of `ImageEditingAgent`; an agent without engines does not get them.
        arguments: see `AgentArguments`; `tools` of the spec replace those among them.

    Raises:
        ConfigError: the agent or a tool cannot be imported or made, or there is no tool of a name.
    """
    address, options = spec.address_and_options()
    kind, given = agent_class(spec), {**arguments, **options}
    if unused := sorted({"engines", "client_nodes"} & options.keys()):
        raise ConfigError(f"agent {address!r}: {unused[0]} stands beside the agent, not among its arguments")
    if spec.tools is not None:
        given["tools"] = spec.tools
    if issubclass(kind, ImageEditingAgent):
        given |= {"engines": engines, "client_nodes": client_nodes}
    elif client_nodes:
        raise ConfigError(f"agent {address!r} is no ImageEditingAgent, and so calls no image servers: leave them out")
    make: Callable[..., Agent] = kind
    try:
        agent = make(model, **given)
    except ConfigError:
        raise
    except Exception as fault:  # anybody's constructor
        raise ConfigError(f"agent {address!r} cannot be made: {described(fault)}") from fault
    if agent.engines is None and engines is not None:
        agent.engines = make_engines(engines)  # for groups of tools that work with engines
    agent.tools_for(ImageView(ImageStore()))  # raises now what would else fail every chain
    return agent


def agent_class(spec: AgentSpec) -> type[Agent]:
    """Return the class that a spec names.

    Raises:
        ConfigError: there is none, it cannot be imported, or it is no subclass of `Agent`.
    """
    address, _ = spec.address_and_options()
    if address == IMAGE_EDITING:
        return ImageEditingAgent
    if ":" not in address:
        raise ConfigError(f"there is no agent {address!r}: write {IMAGE_EDITING}, or module:Class of your own")
    found = import_object(address, "agent")
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise ConfigError(f"agent {address!r} is no subclass of agentfly.agents.Agent: name one as module:Class")
    return found


def prompt_of(spec: AgentSpec, card: PolicyConfig) -> str | None:
    """Return the system prompt of an agent with a policy, None for none.

    It is the one that the policy was trained with, if it was trained as this agent; else that of the agent's class. A
    class that brings no prompt of its own takes the words that the card of an image-editing policy has in place of the
    usual ones.

    Args:
        spec: of the agent.
        card: of the policy.
    """
    trained = card.spec.address_and_options()[0]
    if spec.address_and_options()[0] == trained:
        return card.system_prompt
    usual, own = ImageEditingAgent.default_system_prompt, agent_class(spec).default_system_prompt
    if own in (None, usual) and trained == IMAGE_EDITING and card.system_prompt != usual:
        return card.system_prompt
    return own
