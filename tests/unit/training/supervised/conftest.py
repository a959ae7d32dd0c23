"""A codec, a model that several tests train, and trajectories of a scripted policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from agentfly.agents import AgentSettings, ImageEditingAgent, Trajectory
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.agents.policy_config import PolicyConfig
from agentfly.images import ImageStore
from agentfly.templates import ChatCodec

EDIT = '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "%s"}}</tool_call>'
ANSWER = '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_2"}}</tool_call>'
CARD = PolicyConfig(system_prompt=None, max_turns=3, max_tokens_per_turn=40)


@dataclass(frozen=True)
class Log:
    """A file of trajectories with its images."""

    path: Path
    store: ImageStore
    trajectories: tuple[Trajectory, ...]

    def write(self) -> None:
        """Write the file, with its trajectories as they are now."""
        self.path.write_text("".join(trajectory.to_json() + "\n" for trajectory in self.trajectories))


@pytest.fixture(scope="session")
def small_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an untrained policy with one layer, and its agent card."""
    from agentfly.datasets import vocabulary
    from agentfly.training.quickstart.tiny_policy import PolicySize, build_policy

    folder = tmp_path_factory.mktemp("small") / "policy"
    build_policy(folder, vocabulary() * 2, size=PolicySize(layers=1, vision_layers=1))
    CARD.write(folder)
    return folder


@pytest.fixture(scope="session")
def codec(small_policy: Path) -> ChatCodec:
    return ChatCodec.from_pretrained(str(small_policy))


@pytest.fixture
def play(tmp_path: Path, image: Image.Image) -> Callable[..., object]:
    """Play scripted chains on one image and keep them as a log."""

    async def playing(*words: str, codec: ChatCodec | None, name: str = "run", task: str = "Change it.") -> Log:
        store = ImageStore(tmp_path / name / "images")
        found: list[Trajectory] = []
        for index, word in enumerate(words):
            backend = ScriptedBackend([EDIT % word, ANSWER], codec=codec)
            agent = ImageEditingAgent("s", backend=backend, store=store, settings=AgentSettings(system_prompt=None))
            content = [{"type": "image", "image": image}, {"type": "text", "text": f"\n{task}"}]
            (trajectory,) = await agent.run([{"id": f"{name}-{index}", "role": "user", "content": content}])
            trajectory.score = 10.0 * index
            found.append(trajectory)
        log = Log(tmp_path / name / "trajectories.jsonl", store, tuple(found))
        log.write()
        return log

    return playing
