"""Files in the form of the authors' repositories, with words of our own, and evaluators that ask a scripted judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from agentfly.evaluation.protocols import PROTOCOLS
from agentfly.evaluation.protocols.judged import ProtocolJudge
from tests.unit.evaluators.scripted_judge import Judge

_FIELDS = {
    "prompt_consist": "{instruct}",
    "prompt_instruction_following": "{instruct}",
    "prompt_dual_evaluation": "{instruct} | {explanation}",
    "prompt_abnormal_instruction_following": "{instruct} | {explanation}",
    "prompt_consist_temporal": "{N} {instruct}",
}


def gedit_prompts(root: Path) -> Path:
    """The file of GEdit's prompts; running it would fail."""
    texts = {
        "_context_no_delimit": "CONTEXT",
        "_prompts_0shot_two_image_edit_rule": "RULE",
        "_prompts_0shot_tie_rule_SC": "SEMANTICS of <instruction>",
        "_prompts_0shot_rule_PQ": "QUALITY",
    }
    lines = ["raise SystemExit('this file was run')", *(f'{name} = """{text}"""' for name, text in texts.items())]
    return write(root, "GEdit-Bench/viescore/vie_prompts.py", "\n".join(lines))


def imgedit_prompts(root: Path) -> Path:
    """The files of ImgEdit's prompts."""
    write(root, "Benchmark/UGE/UGE_bench.py", 'import nothing_that_exists\nprompt = """UGE <edit_prompt>"""\n')
    kinds = {kind: f"RATE {kind}: <edit_prompt>" for kind in ("adjust", "style")}
    return write(root, "Benchmark/Basic/prompts.json", json.dumps(kinds))


def named_prompts(root: Path, path: str, names: tuple[str, ...]) -> Path:
    """A module of prompts that repeat their name, with the fields of the authors' ones."""
    lines = ["import nothing_that_exists"]
    for name in names:
        fields = _FIELDS.get(name, "" if name.endswith(("quality", "generation", "qual", "wo_q")) else "{instruct}")
        lines.append(f'{name} = """<{name}> {fields} {{{{"json": 1}}}}"""')
    return write(root, path, "\n".join(lines))


def rise_prompts(root: Path) -> Path:
    """The file of RISEBench's prompts."""
    (file,) = PROTOCOLS["risebench"].splits["all"].prompts
    return named_prompts(root, file.path, file.names)


def kris_prompts(root: Path) -> Path:
    """The files of KRIS-Bench's prompts, and of the words before its images."""
    prompts, *_ = PROTOCOLS["kris"].splits["all"].prompts
    named_prompts(root, prompts.path, prompts.names)
    text = '{{"type": "text", "text": {}}}'
    scripts: dict[str, dict[str, tuple[str, ...]]] = {
        "metrics_view_change.py": {"evaluate_with_gpt": ("prompt", '"BEFORE"', '"AFTER"', '"TRUTH"')},
        "metrics_multi_element.py": {
            "evaluate_multi_element_with_gpt": ("prompt", 'f"GIVEN {idx}"', '"MADE"'),
            "evaluate_with_gpt": ("prompt", '"ALONE"'),
        },
        "metrics_temporal_prediction.py": {"evaluate_temporal_with_gpt": ("prompt", 'f"F{frame_num} {frame_type}"')},
    }
    for name, functions in scripts.items():
        lines = [
            f"def {function}(prompt):\n    return [{', '.join(text.format(words) for words in texts)}]\n"
            for function, texts in functions.items()
        ]
        write(root, name, "import nothing_that_exists\n" + "\n".join(lines))
    return root


def write(root: Path, path: str, text: str) -> Path:
    """Write a file below a root, and return the root."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")
    return root


async def no_wait(seconds: float) -> None:
    """Wait for nothing."""


def protocol_judge(server: Judge, name: str, root: Path, split: str | None = None, **judge: Any) -> ProtocolJudge:
    """The protocol's evaluator, asking a scripted judge."""
    settings: Mapping[str, object] = {"base_url": server.base_url, "api_key_env": "NO_SUCH_KEY", "attempts": 2, **judge}
    return ProtocolJudge(name, split, str(root), settings, sleep=no_wait)


def words_of(request: Mapping[str, Any]) -> list[str]:
    """The texts of a request, with "IMAGE" for each image, in order."""
    return [part.get("text", "IMAGE") for part in request["messages"][0]["content"]]


def grey(level: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """An image of one grey."""
    return Image.new("RGB", size, (level, level, level))


Answers = Callable[[Mapping[str, Any], int], Any]
