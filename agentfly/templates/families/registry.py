"""The model families, one entry each.

To add one: write its chat template beside the others, add an entry here and a tiny checkpoint to the tests, and run
those and `python -m tests.e2e.family_steps`. What has not passed yet stands in `untried`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from agentfly.errors import TemplateError, unknown_name
from agentfly.templates.families.family import CallForm, Family, Placeholder, Reasoning, Support, Untried
from agentfly.templates.families.placeholders import gemma3_ids, grid_ids, numbered_ids, processed_ids

_JSON = CallForm(
    "json",
    '{"name"',
    '<tool_call>{"name": "...", "arguments": {...}}</tool_call>',
    "hermes",
)
_XML = CallForm(
    "function-xml",
    "<function=",
    "<tool_call>\n<function=NAME>\n<parameter=ARGUMENT>\nVALUE\n</parameter>\n</function>\n</tool_call>",
    "qwen3_xml",
)
_ARG_PAIRS = CallForm(
    "argument-pairs",
    "<arg_key>",
    "<tool_call>NAME\n<arg_key>ARGUMENT</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>",
    "glm45",
)
_CALL_TOKENS = CallForm(
    "call-tokens", "<|tool_call>call:", '<|tool_call>call:NAME{ARGUMENT:<|"|>VALUE<|"|>}<tool_call|>', "gemma4"
)
_BRACKETS = CallForm("bracket-tokens", "[TOOL_CALLS]", '[TOOL_CALLS]NAME[ARGS]{"ARGUMENT": VALUE}', "mistral")
_PYTHON = CallForm(
    "python-tokens", "<|tool_call_start|>", "<|tool_call_start|>[NAME(ARGUMENT=VALUE)]<|tool_call_end|>", "lfm2"
)
CALL_FORMS: tuple[CallForm, ...] = (_XML, _ARG_PAIRS, _CALL_TOKENS, _BRACKETS, _PYTHON, _JSON)

_CHATML = ("<|im_end|>",)
_GRID = Placeholder(grid_ids)
# Lines are those of the pinned versions.
_NO_PROCESSOR = "verl/utils/tokenizer/tokenizer.py:236 refuses {0}, and verl would train without images"
_BF16 = "vllm/model_executor/layers/mamba/ops/cpu/gdn_attention.py:53: rollouts on a CPU are in bfloat16 alone"
_SAVED_VISION = (
    "vllm/model_executor/models/siglip.py:954: vLLM reads the weights of published checkpoints, and not of those that "
    "transformers 5 has saved"
)
_SHARDED_TABLE = (
    "transformers/models/glm4v/modeling_glm4v.py:202 interpolates the vision tower's table of positions, which FSDP2 "
    "has sharded: a step of verl ends there"
)
_NOT_PATCHED = (
    "verl/models/transformers/monkey_patch.py:458 patches glm4v alone: a batch without images would leave out the "
    "vision tower, for which FSDP waits"
)
_NEW_LINE = (
    "vllm/model_executor/models/gemma3_mm.py:380: vLLM finds no image that a new line follows, and joins new lines "
    "before one, which ends the chain"
)
_TRITON = "vllm/model_executor/layers/mamba/ops/causal_conv1d.py:567 needs Triton: no rollouts on a CPU"
_SSM = "vllm/model_executor/models/config.py:613 reads the type of the states for Qwen3.5 alone: no rollouts on a CPU"
_STEP: tuple[Untried, ...] = ("a step of verl",)
_TURNS: tuple[Untried, ...] = ("two turns on vLLM",)
_GEMMA4 = "verl/utils/tokenizer/tokenizer.py:231 takes its processor, and agentfly makes no trainer inputs for it yet"


def _not_trained(processor: str) -> str:
    return _NO_PROCESSOR.format(processor)


_ENTRIES = (
    Family(
        name="qwen2.5-vl",
        title="Qwen2.5-VL",
        processors=("Qwen2_5_VLProcessor", "Qwen2VLProcessor"),
        templates=("qwen2.5-vl-system-tool", "qwen2.5-vl", "compact-tool"),
        placeholder=_GRID,
        calls=_JSON,
        ends=_CHATML,
        positions="mrope",
        trainer="grids",
        support={
            "qwen2_5_vl": Support("trained", "Qwen2_5_VLForConditionalGeneration"),
        },
    ),
    Family(
        name="qwen3-vl",
        title="Qwen3-VL",
        processors=("Qwen3VLProcessor",),
        templates=("qwen3-vl",),
        placeholder=_GRID,
        calls=_JSON,
        ends=_CHATML,
        reasoning=Reasoning(),
        positions="mrope",
        trainer="grids",
        support={
            "qwen3_vl": Support("trained", "Qwen3VLForConditionalGeneration"),
            "qwen3_vl_moe": Support("trained", "Qwen3VLMoeForConditionalGeneration", untried=_TURNS + _STEP),
        },
    ),
    Family(
        name="qwen3.5",
        title="Qwen3.5",
        processors=("Qwen3VLProcessor",),
        templates=("qwen3.5",),
        placeholder=_GRID,
        calls=_XML,
        ends=_CHATML,
        reasoning=Reasoning(),
        positions="mrope",
        trainer="grids",
        support={
            "qwen3_5": Support("trained", "Qwen3_5ForConditionalGeneration", (_BF16,)),
            "qwen3_5_moe": Support("trained", "Qwen3_5MoeForConditionalGeneration", (_BF16,), untried=_STEP),
        },
    ),
    Family(
        name="glm-4.6v",
        title="GLM-4.6V",
        processors=("Glm46VProcessor", "Glm4vProcessor"),
        templates=("glm-4.6v",),
        placeholder=_GRID,
        calls=_ARG_PAIRS,
        ends=("<|user|>", "<|observation|>"),
        opens_next=("<|user|>", "<|observation|>"),
        reasoning=Reasoning(closing="\n</think>\n"),
        positions="mrope",
        trainer="grids",
        support={
            "glm4v": Support("token-exact", "Glm4vForConditionalGeneration", (_SHARDED_TABLE,)),
            "glm4v_moe": Support("token-exact", "Glm4vMoeForConditionalGeneration", (_NOT_PATCHED,)),
        },
    ),
    Family(
        name="internvl3.5",
        title="InternVL3.5",
        processors=("InternVLProcessor",),
        templates=("internvl3.5",),
        placeholder=Placeholder(processed_ids),
        calls=_JSON,
        ends=_CHATML,
        reasoning=Reasoning(),
        support={
            "internvl": Support(
                "token-exact", "InternVLForConditionalGeneration", (_not_trained("InternVLProcessor"),)
            ),
        },
    ),
    Family(
        name="gemma3",
        title="Gemma 3",
        processors=("Gemma3Processor",),
        templates=("gemma3",),
        placeholder=Placeholder(gemma3_ids, mark="boi_token", around="\n\n"),
        calls=_JSON,
        ends=("<end_of_turn>",),
        support={
            "gemma3": Support(
                "token-exact",
                "Gemma3ForConditionalGeneration",
                (_SAVED_VISION, _NEW_LINE, _not_trained("Gemma3Processor")),
                untried=_TURNS,
            ),
        },
    ),
    Family(
        name="gemma4",
        title="Gemma 4",
        processors=("Gemma4Processor",),
        templates=("gemma4",),
        placeholder=Placeholder(processed_ids),
        calls=_CALL_TOKENS,
        ends=("<turn|>", "<|tool_response>"),
        opens_next=("<|tool_response>",),
        shown=("<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"),
        reasoning=Reasoning("<|channel>", "<channel|>", "\n<channel|>"),
        tool_images="after the text",
        support={"gemma4": Support("token-exact", "Gemma4ForConditionalGeneration", (_GEMMA4,))},
    ),
    Family(
        name="minicpm-v-4.6",
        title="MiniCPM-V 4.6",
        processors=("MiniCPMV4_6Processor",),
        templates=("minicpm-v-4.6",),
        placeholder=Placeholder(numbered_ids, numbered=True),
        calls=_XML,
        ends=_CHATML,
        reasoning=Reasoning(),
        support={
            "minicpmv4_6": Support(
                "token-exact",
                "MiniCPMV4_6ForConditionalGeneration",
                (_SSM, _not_trained("MiniCPMV4_6Processor")),
                untried=_TURNS,
            ),
        },
    ),
    Family(
        name="mistral3",
        title="Mistral 3, Pixtral",
        processors=("PixtralProcessor",),
        templates=("mistral3",),
        placeholder=Placeholder(processed_ids),
        calls=_BRACKETS,
        ends=(),
        shown=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
        reasoning=Reasoning("[THINK]", "[/THINK]", "[/THINK]"),
        support={
            "mistral3": Support("token-exact", "Mistral3ForConditionalGeneration", (_not_trained("PixtralProcessor"),)),
        },
    ),
    Family(
        name="lfm2-vl",
        title="LFM2-VL",
        processors=("Lfm2VlProcessor",),
        templates=("lfm2-vl",),
        placeholder=Placeholder(processed_ids),
        calls=_PYTHON,
        ends=_CHATML,
        shown=("<|tool_call_start|>", "<|tool_call_end|>"),
        support={
            "lfm2_vl": Support(
                "token-exact",
                "Lfm2VlForConditionalGeneration",
                (_TRITON, _not_trained("Lfm2VlProcessor")),
                untried=_TURNS,
            ),
        },
    ),
    Family(
        name="smolvlm",
        title="SmolVLM",
        processors=("SmolVLMProcessor",),
        templates=(),
        placeholder=None,
        calls=_JSON,
        ends=("<end_of_utterance>",),
        support={
            "smolvlm": Support(
                "endpoint",
                "SmolVLMForConditionalGeneration",
                ("transformers/models/smolvlm/processing_smolvlm.py:141 needs the package num2words",),
            ),
        },
    ),
)
FAMILIES: Mapping[str, Family] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def family_named(name: str) -> Family:
    """Return the entry of a name.

    Raises:
        TemplateError: there is none.
    """
    if name not in FAMILIES:
        raise TemplateError(unknown_name("model family", name, FAMILIES))
    return FAMILIES[name]


def find_family(model_type: str | None, processor: str | None = None) -> Family | None:
    """Return the family of a checkpoint; None where it is of none.

    Args:
        model_type: of its `config.json`, where that is known: families may share a processor.
        processor: class of its processor.
    """
    found = (entry for entry in _ENTRIES if model_type in entry.support)
    by_class = (entry for entry in _ENTRIES if processor in entry.processors)
    return next(found, next(by_class, None))


def model_type_of(folder: Path) -> str | None:
    """Return the model type of a checkpoint's folder; None where `config.json` is not there or names none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = config.get("model_type") if isinstance(config, dict) else None
    return found if isinstance(found, str) else None
