"""Checks of a checkpoint: its processor loads and fits the images, its template keeps all input, its calls are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from agentfly.agents.llm_backends.vllm_defaults import ANY_DEVICE
from agentfly.doctor.checks.conversation import AFTER, ASK, BEFORE, CALL, RESULT, SAID, SCHEMA, SECOND, load
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.errors import AgentFlyError, TemplateError
from agentfly.messages import Message, ToolCall, text_message
from agentfly.model_source import find_model
from agentfly.templates import ChatCodec
from agentfly.templates.families import LEVELS, Family, model_type_of
from agentfly.tools import parse_tool_calls

Size = tuple[int, int]

# Smaller than any limit, a small photograph, a diffusion engine's result, a camera's photograph, a panorama.
SIZES: Sequence[Size] = ((20, 20), (512, 512), (1024, 1024), (4000, 3000), (2000, 300))
_RESULT, _PHOTO = (1024, 1024), (4000, 3000)
# System prompt with schemas, and the text of the turns.
_TEXT_TOKENS = 1500
# The source, one intermediate image, the result.
_LEAST_IMAGES = 3
_THOUGHT = "Is it the left one?"
_SHRINK = 'lower "max_pixels" (or size.longest_edge) in the checkpoint\'s preprocessor_config.json, e.g. to 602112'


def limits(examination: Examination) -> Iterator[Finding]:
    """Check the images of a chain against the context of the engine."""
    codec, request = examination.codec, examination.request
    assert codec is not None, "the check `checkpoint` comes first"

    def processed(size: Size) -> int:
        images = codec.processor.image_processor
        grid = images(images=[Image.new("RGB", size)], return_tensors="np")["image_grid_thw"][0]
        return int(grid[0] * grid[1] * grid[2]) // int(images.merge_size) ** 2

    # Elsewhere the processor itself writes the ids of an image.
    if codec.family.trainer == "grids":
        yield from check_processor(SIZES, lambda size: _counted(codec, size), processed)
    candidates = (
        (request.max_model_len, "--max-model-len"),
        (examination.engine_context, "the endpoint"),
        (examination.context, "the checkpoint's positions"),
    )
    context, source = next(((tokens, name) for tokens, name in candidates if tokens is not None), (None, ""))
    if context is not None:
        images = int(ANY_DEVICE["limit_mm_per_prompt"]["image"])
        yield from check_context(lambda size: _counted(codec, size), context, source, images)
    if examination.engine_context is not None and examination.context is not None:
        yield from check_agreement(examination.engine_context, examination.context, request.max_model_len)


def check_processor(
    sizes: Sequence[Size], counted: Callable[[Size], int], processed: Callable[[Size], int]
) -> Iterator[Finding]:
    """Check that prompts have as many image tokens as the processor makes features.

    Args:
        sizes: (width, height) of the images to try.
        counted: returns the placeholder tokens that the codec writes for a size.
        processed: returns the tokens of the processor's own grid for a size.
    """
    different = [(size, counted(size), processed(size)) for size in sizes if counted(size) != processed(size)]
    for (width, height), ours, theirs in different:
        yield error(
            f"an image of {width}x{height} is {ours} tokens in the prompt and {theirs} features in the model",
            "install the pinned transformers (see the versions above), or use another processor",
        )
    if not different:
        yield ok(f"prompt and processor agree on the tokens of {len(sizes)} sizes of images")


def check_context(counted: Callable[[Size], int], context: int, source: str, images: int) -> Iterator[Finding]:
    """Check that enough images of the size that engines make fit into one chain.

    Args:
        counted: returns the tokens of an image of a size.
        context: most tokens of prompt and answer together.
        source: name of what sets this limit.
        images: most images of a prompt.
    """
    result, photo = counted(_RESULT), counted(_PHOTO)
    fit = max(0, context - _TEXT_TOKENS) // result
    line = f"{context} tokens ({source}) hold {fit} images of 1024x1024 ({result} tokens each)"
    fix = f"raise --max-model-len of the engine (data.max_prompt_length and max_response_length of a run), or {_SHRINK}"
    if fit < _LEAST_IMAGES:
        yield error(f"{line}, and one edit needs {_LEAST_IMAGES}", fix)
    elif fit < images:
        yield warning(f"{line}, and a prompt may have {images}: long chains will be cut", fix)
    else:
        yield ok(line)
    if photo + _TEXT_TOKENS > context // 2 and photo > result:
        yield warning(f"a photograph of 12 megapixels is {photo} tokens, more than half of {context}", _SHRINK)


def check_agreement(engine: int, checkpoint: int, asked: int | None) -> Iterator[Finding]:
    """Check the engine's context: one smaller than the run assumes cuts or refuses chains.

    Args:
        engine: tokens that the endpoint takes.
        checkpoint: positions of the checkpoint.
        asked: tokens of `--max-model-len`, or None.
    """
    if asked is not None and engine < asked:
        yield error(
            f"the endpoint takes {engine} tokens, and {asked} were asked for",
            f"serve with --max-model-len {asked}, or ask for less",
        )
    elif engine > checkpoint:
        yield warning(
            f"the endpoint takes {engine} tokens, the checkpoint has positions for {checkpoint}",
            f"serve with --max-model-len {checkpoint}",
        )


def _counted(codec: ChatCodec, size: Size) -> int:
    return codec.image_length(f"{size[0]}x{size[1]}", lambda _: Image.new("1", size))


def checkpoint(examination: Examination) -> Iterator[Finding]:
    """Load processor and template for this and the other checks of the model."""
    request = examination.request
    if request.source is None and request.model is None:
        yield skipped("no model was named", "--model FOLDER or hub name")
        return
    if request.source is None:
        yield skipped(
            f"{request.model} is a name on the server; its template and processor were not looked at",
            "--checkpoint FOLDER or hub name of what is served",
        )
        return
    try:
        folder = find_model(request.source, option="--model" if request.source == request.model else "--checkpoint")
        codec = ChatCodec.from_pretrained(folder, request.template)
        tokens = codec.image_length("img_large", load)
    except AgentFlyError as fault:
        yield error(str(fault), "name a checkpoint with --model, and a template with --template")
        return
    except (OSError, ValueError) as fault:
        reason = str(fault).strip().splitlines()[0]
        fix = "check the name; without network, name a local folder; for a gated model set HF_TOKEN"
        if Path(request.source).is_dir():
            save = "AutoProcessor.from_pretrained(BASE).save_pretrained"
            fix = f"the folder must hold the processor, too: save it with {save}"
        yield error(f"{request.source}: {reason}", fix)
        return
    from transformers import AutoConfig

    text_config = AutoConfig.from_pretrained(folder).get_text_config()
    examination.codec, examination.context = codec, getattr(text_config, "max_position_embeddings", None)
    template = request.template or "the checkpoint's own template"
    yield ok(f"{request.source}: {type(codec.processor).__name__} with {template}; 640x480 is {tokens} tokens")
    yield from check_family(codec.family, model_type_of(Path(folder)))


def check_family(family: Family, model_type: str | None) -> Iterator[Finding]:
    """Tell the family, its level, and what would break.

    Args:
        family: of the checkpoint.
        model_type: of its configuration; None where that is not known.
    """
    support = family.support.get(model_type or "")
    if support is None:
        yield warning(
            f"{family.title}, by its processor: the model type {model_type!r} was never tried",
            f"use one of {', '.join(family.support)}",
        )
        return
    yield ok(f"{family.title} ({model_type}): {LEVELS[support.level]}; calls as {family.calls.example!r}")
    if support.untried:
        yield warning(
            f"{family.title} ({model_type}): not tried yet: {', '.join(support.untried)}",
            f"it is meant for {LEVELS[support.goal]}; watch the first rollouts, and training/rollout_probs_diff_max",
        )
    for limit in support.limits:
        yield warning(f"{family.title}: {limit}", "docs/models.md lists the families that are trained")


def images(examination: Examination) -> Iterator[Finding]:
    """Check that images stay in their places, in tool turns too."""
    yield from check_images(_codec(examination))


def prefix(examination: Examination) -> Iterator[Finding]:
    """Check that a conversation is rendered as a prefix of its continuation."""
    yield from check_prefix(_codec(examination))


def schemas(examination: Examination) -> Iterator[Finding]:
    """Check that the template shows tools to the model."""
    yield from check_schemas(_codec(examination))


def parser(examination: Examination) -> Iterator[Finding]:
    """Check that a call in the model's own format is parsed to the same call."""
    yield from check_parser(_codec(examination))


def check_images(codec: ChatCodec) -> Iterator[Finding]:
    """Render an image in a tool turn between two texts, and check that it is there."""
    messages = [ASK, SAID, RESULT]
    try:
        ids = codec.prompt_ids(messages, (), load)
    except AgentFlyError as fault:
        yield error(str(fault), _better(codec))
        return
    text = _collapsed_text(codec, ids, messages)
    before, _, after = text.partition(BEFORE)[2].partition(AFTER)
    mark = str(codec.tokenizer.convert_ids_to_tokens(codec.mark_id))
    if mark in before:
        yield ok("images stay in user and tool turns, between the texts that they stand between")
    elif mark in after and codec.family.tool_images == "after the text":
        yield ok(
            f"images stay in user turns, and stand after the text of a tool's result, as {codec.family.title} has it"
        )
    else:
        yield error(
            "the chat template moves an image of a tool turn away from its place, or loses its text", _better(codec)
        )


def check_prefix(codec: ChatCodec) -> Iterator[Finding]:
    """Compare the ids of turn by turn rendering with those of the whole. Otherwise the policy trains on other text."""
    fix = f"use a template that renders every turn the same wherever it stands, such as {codec.family.templates[0]}"
    if not all(_is_stable(codec, SAID, closed=closed) for closed in (True, False)):
        yield error("a conversation is not a prefix of its continuation: rollouts would not be what is trained", fix)
    elif _THOUGHT not in codec.turn_text(_thought(codec)) or not _is_stable(codec, _thought(codec), closed=True):
        yield warning(
            "the chat template changes thoughts (<think>) of earlier turns: a server that renders the conversation "
            "itself would show the model another one than the rollout's",
            f"{fix}; or use backend='async_vllm', which takes ids",
        )
    else:
        yield ok("a conversation is rendered as a prefix of its continuation")


def check_schemas(codec: ChatCodec) -> Iterator[Finding]:
    """Check that the name of a tool is in the rendered prompt."""
    if SCHEMA["function"]["name"] in codec.decode(codec.prompt_ids([ASK], [SCHEMA], load)):
        yield ok("the chat template shows tools to the model")
    else:
        yield warning("the chat template does not show tools to the model", _better(codec))


def check_parser(codec: ChatCodec) -> Iterator[Finding]:
    """Render a call by the template, and parse it as in a rollout."""
    fix = f"use a template that writes calls as {codec.family.title} does, such as {codec.family.templates[0]}"
    messages = [ASK, Message("assistant", (), (CALL,)), SECOND]
    text = _collapsed_text(codec, codec.prompt_ids(messages, (), load), messages)
    # Up to the result: a thought that the template opens, or closes, for the next turn is no part of this one.
    calls = parse_tool_calls(text.partition(SECOND.text)[0], names=[CALL.name], form=codec.call_form).calls
    if [(call.name, _texts(call), call.error) for call in calls] == [(CALL.name, _texts(CALL), None)]:
        yield ok("calls in the template's format are read back as they were")
    elif CALL.name not in text:
        yield error("the chat template leaves out the calls of the assistant's turns", fix)
    else:
        start = text.index(CALL.name)
        yield error(f"a call in the template's format is not read: ...{text[max(0, start - 40) : start + 60]!r}", fix)


def _is_stable(codec: ChatCodec, said: Message, *, closed: bool) -> bool:
    ids = codec.prompt_ids([ASK], [SCHEMA], load)
    try:
        ids += codec.tokenizer(codec.turn_text(said), add_special_tokens=False)["input_ids"]
    except TemplateError:
        return False
    for observations in ([RESULT, SECOND], [RESULT]):
        whole = codec.prompt_ids([ASK, said, *observations], [SCHEMA], load)
        following = codec.continuation_ids(observations, [SCHEMA], load, ended_by=None, images_before=1)
        if closed and following[0] in codec.eos_ids:
            rest = codec.continuation_ids(observations, [SCHEMA], load, ended_by=following[0], images_before=1)
            following = [following[0], *rest]
        if ids + following != whole:
            return False
    return True


def _better(codec: ChatCodec) -> str:
    return f"use a template that does, for instance --template {codec.family.templates[0]} (and template= of the agent)"


def _thought(codec: ChatCodec) -> Message:
    """Return a turn with a thought, in the marks of the family."""
    return text_message("assistant", f"{codec.reasoning.begins}\n{_THOUGHT}{codec.reasoning.closing}I look.")


def _collapsed_text(codec: ChatCodec, ids: Sequence[int], messages: Sequence[Message]) -> str:
    images = [handle for message in messages for handle in message.images]
    return str(codec.tokenizer.decode(codec.collapse(ids, images, load)))


def _texts(call: ToolCall) -> dict[str, str]:
    """Return the arguments of a call as texts: some forms have no other values."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in call.arguments.items()}


def _codec(examination: Examination) -> ChatCodec:
    assert examination.codec is not None, "the check `checkpoint` comes first"
    return examination.codec
