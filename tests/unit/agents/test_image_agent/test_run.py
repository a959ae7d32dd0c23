"""One edit from end to end, to be looked at: `python -m agentfly.tests.unit.agents.test_image_agent.test_run`.

A photograph that comes with scikit-image, the embedded engines, and a policy that says what it is told.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from PIL import Image

from agentfly.agents import ImageEditingAgent
from agentfly.agents.display.strip import steps, write_steps
from agentfly.agents.llm_backends import ScriptedBackend
from agentfly.datasets.photos import load_photo

SCRIPT = [
    "Let me find what is orange on the coffee table.\n"
    '<tool_call>{"name": "detect_objects", "arguments": {"image_id": "img_1", "text_prompt": "orange", '
    '"box_threshold": 0.42, "auto_mask_dilate": 4}}</tool_call>',
    '<tool_call>{"name": "inpaint_image", "arguments": {"image_id": "img_1", "mask_id": "mask_1", '
    '"prompt": "blue"}}</tool_call>',
    '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_2", "prompt": "brighten"}}</tool_call>',
    '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_3", '
    '"description": "What was orange is blue, and the picture is brighter."}}</tool_call>',
]


async def main(folder: Path = Path("outputs/test_run")) -> Path:
    """Edit a photograph, print the conversation, and write the image and its steps."""
    agent = ImageEditingAgent("scripted", backend=ScriptedBackend(SCRIPT), streaming="console")
    content = [
        {"type": "image", "image": load_photo("coffee.png")},
        {"type": "text", "text": "Make what is orange blue, and brighten the picture."},
    ]
    result = await agent.run([{"role": "user", "content": content}], max_turns=4, num_chains=1, enable_streaming=True)
    agent.print_messages(index=0)
    write_steps(steps(result[0], agent.store), folder / "steps.png")
    final = result[0].final_image
    assert final is not None, result[0].error
    return agent.save_image(final, folder / "edited.png")


@pytest.mark.slow
async def test_the_run_edits_the_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Image.open(await main(tmp_path)) as edited:
        assert edited.size == load_photo("coffee.png").size
        assert edited.tobytes() != load_photo("coffee.png").tobytes()
    with Image.open(tmp_path / "steps.png") as strip:
        assert strip.width == 5 * 354, "given, mask, two edits, answer"
    shown = capsys.readouterr().out
    for words in ("detect_objects", "inpaint_image", "qwen_edit_image", "give_answer", "mask_1", "img_3"):
        assert words in shown


if __name__ == "__main__":
    asyncio.run(main())
