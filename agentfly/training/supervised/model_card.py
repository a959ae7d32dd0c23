"""Write the README of an exported policy: its origin, its training, its scores, and the command to run it.

The front matter follows the model cards of the Hugging Face hub (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from agentfly.agents.policy_config import PolicyConfig
from agentfly.agents.spec import is_foreign
from agentfly.errors import ConfigError
from agentfly.evaluation.report.markdown import plain
from agentfly.redaction import public_settings


@dataclass(frozen=True)
class CardFacts:
    """Content of a model card.

    Attributes:
        name: heading.
        base_model: hub name or folder of the model that was trained, "" when it is not known.
        method: e.g. "supervised fine-tuning" or "grpo".
        agent: settings with which the policy is run.
        data: of the training, by name.
        settings: of the training, by name.
        result: of the training, by name.
        scores: of an evaluation; see `read_scores`.
        versions: of the packages.
        adapter: the folder holds adapters, not a whole model.
    """

    name: str
    base_model: str
    method: str
    agent: PolicyConfig
    data: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    result: Mapping[str, object] = field(default_factory=dict)
    scores: Sequence[tuple[str, str]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    adapter: bool = False


def model_card(facts: CardFacts) -> str:
    """Return the text of the README."""
    front: dict[str, object] = {
        "library_name": "peft" if facts.adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
    }
    # The hub refuses a base model that is not one of its own names.
    if facts.base_model.count("/") == 1 and not Path(facts.base_model).exists():
        front["base_model"] = facts.base_model
        front["base_model_relation"] = "adapter" if facts.adapter else "finetune"
    front["tags"] = ["agentfly", "image-editing", "tool-use", facts.method.replace(" ", "-")]
    return "\n".join(["---", yaml.safe_dump(front, sort_keys=False).rstrip(), "---", "", *_body(facts)])


def read_scores(path: Path) -> list[tuple[str, str]]:
    """Read the scores of an evaluation as rows of name and value.

    Args:
        path: JSON with estimates (`mean`, `low`, `high`), nested in any way, e.g. of `agentfly eval` or a quickstart.

    Raises:
        ConfigError: the file cannot be read, or has no estimate.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise ConfigError(f"scores {path} cannot be read: {fault}") from fault
    if isinstance(summary, dict):
        # A quickstart has many passes; that of the trained policy without sampling is about the exported one.
        summary = summary.get("trained", summary)
        summary = summary.get("greedy", summary)

    def estimates(node: object, prefix: str = "") -> Iterator[tuple[str, str]]:
        if not isinstance(node, Mapping):
            return
        if isinstance(node.get("mean"), (int, float)):
            interval = f" ({node['low']:g} to {node['high']:g})" if "low" in node and "high" in node else ""
            yield prefix, f"{node['mean']:g}{interval}"
            return
        for key, child in node.items():
            yield from estimates(child, f"{prefix} · {key}" if prefix else str(key))

    rows = list(estimates(summary))
    if not rows:
        raise ConfigError(f"{path} holds no scores: give the summary.json of an evaluation")
    return rows


def _body(facts: CardFacts) -> Iterator[str]:
    kind = "Adapters of a" if facts.adapter else "A"
    yield f"# {plain(facts.name)}"
    yield ""
    # A folder by its name: its path on one machine means nothing on another.
    name = Path(facts.base_model).name if Path(facts.base_model).is_absolute() else facts.base_model
    base = f", from `{name}`" if name else ""
    yield f"{kind} vision-language policy that edits images with tools, trained by {facts.method}{base}."
    yield ""
    yield from _table("Training data", ("", ""), facts.data.items())
    yield from _table("Settings", ("", ""), facts.settings.items())
    yield from _table("Result", ("", ""), facts.result.items())
    yield from _table("Scores", ("", "mean (95 % interval)"), facts.scores)
    prompt = "none" if facts.agent.system_prompt is None else f"{len(facts.agent.system_prompt)} characters"
    named = {name: getattr(facts.agent, name) for name in ("agent", "tools", "reward")}
    agent = public_settings({name: value for name, value in named.items() if value is not None})
    limits = {
        "turns": facts.agent.max_turns,
        "tokens a turn": facts.agent.max_tokens_per_turn,
        "system prompt": prompt,
    }
    yield from _table("As an agent (`agentfly.json`)", ("", ""), (agent | limits).items())
    yield "```bash"
    if facts.adapter:
        yield "agentfly export THIS_RUN --out POLICY  # with the base model's weights"
    # Code that is not part of the package is imported only for a person who asks for it.
    own = " --agent card" if is_foreign(facts.agent.agent) or any(map(is_foreign, facts.agent.tools or ())) else ""
    folder = "POLICY" if facts.adapter else "THIS_FOLDER"
    yield f'agentfly edit image.jpg "Remove the red circle." --model {folder}{own}'
    yield "```"
    yield ""
    yield from _table("Versions", ("", ""), facts.versions.items())


def _table(title: str, heads: tuple[str, str], rows: Iterable[tuple[str, object]]) -> Iterator[str]:
    cells = [(str(name), str(value)) for name, value in rows]
    if not cells:
        return
    yield f"## {title}"
    yield ""
    for left, right in (heads, ("---", "---"), *cells):
        yield f"| {plain(left)} | {plain(right)} |"
    yield ""
