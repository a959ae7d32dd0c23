"""Check that a checkpoint's processor loads, that its template keeps all input, and that its calls can be parsed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agentfly.doctor.checks.conversation import AFTER, ASK, BEFORE, CALL, RESULT, SAID, SCHEMA, SECOND, load
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, skipped, warning
from agentfly.errors import AgentFlyError
from agentfly.messages import Message, text_message
from agentfly.model_source import find_model
from agentfly.templates import ChatCodec
from agentfly.tools import parse_tool_calls

_TEMPLATE = "use a template that does, for instance --template qwen2.5-vl-system-tool (and template= of the agent)"
_THOUGHT = text_message("assistant", "<think>\nhm\n</think>\n\nI look.")


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
    except AttributeError as fault:
        yield error(
            f"the processor of {request.source} is not of the Qwen-VL kind: {fault}",
            "use a Qwen2.5-VL or Qwen3-VL checkpoint; others work as an endpoint with --base-url, not token-exact",
        )
        return
    from transformers import AutoConfig

    text_config = AutoConfig.from_pretrained(folder).get_text_config()
    examination.codec, examination.context = codec, getattr(text_config, "max_position_embeddings", None)
    template = request.template or "the checkpoint's own template"
    yield ok(f"{request.source}: {type(codec.processor).__name__} with {template}; 640x480 is {tokens} tokens")


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
    try:
        ids = codec.prompt_ids([ASK, SAID, RESULT], (), load)
    except AgentFlyError as fault:
        yield error(str(fault), _TEMPLATE)
        return
    text = str(codec.tokenizer.decode(codec.collapse(ids)))
    between = text.partition(BEFORE)[2].partition(AFTER)[0]
    if codec.processor.image_token in between:
        yield ok("images stay in user and tool turns, between the texts that they stand between")
    else:
        yield error("the chat template moves an image of a tool turn away from its place, or loses its text", _TEMPLATE)


def check_prefix(codec: ChatCodec) -> Iterator[Finding]:
    """Compare the ids of turn by turn rendering with those of the whole. Otherwise the policy trains on other text."""
    fix = "use a template that renders every turn the same wherever it stands, such as qwen2.5-vl-system-tool"
    if not all(_is_stable(codec, SAID, closed=closed) for closed in (True, False)):
        yield error("a conversation is not a prefix of its continuation: rollouts would not be what is trained", fix)
    elif not _is_stable(codec, _THOUGHT, closed=True):
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
        yield warning("the chat template does not show tools to the model", _TEMPLATE)


def check_parser(codec: ChatCodec) -> Iterator[Finding]:
    """Render a call by the template, and parse it as in a rollout."""
    fix = "use a template that writes <tool_call> with JSON, such as qwen2.5-vl-system-tool, or train with one"
    ids = codec.prompt_ids([ASK, Message("assistant", (), (CALL,)), SECOND], (), load)
    text = str(codec.tokenizer.decode(codec.collapse(ids)))
    calls = parse_tool_calls(text).calls
    if [(call.name, dict(call.arguments), call.error) for call in calls] == [(CALL.name, dict(CALL.arguments), None)]:
        yield ok("calls in the template's format are read back as they were")
    elif CALL.name not in text:
        yield error("the chat template leaves out the calls of the assistant's turns", fix)
    else:
        start = text.index(CALL.name)
        yield error(f"a call in the template's format is not read: ...{text[max(0, start - 40) : start + 60]!r}", fix)


def _is_stable(codec: ChatCodec, said: Message, *, closed: bool) -> bool:
    ids = codec.prompt_ids([ASK], [SCHEMA], load)
    ids += codec.tokenizer(said.text, add_special_tokens=False)["input_ids"]
    if closed:
        ids.append(codec.tokenizer.convert_tokens_to_ids("<|im_end|>"))
    for observations in ([RESULT, SECOND], [RESULT]):
        whole = codec.prompt_ids([ASK, said, *observations], [SCHEMA], load)
        if ids + codec.continuation_ids(observations, [SCHEMA], load, closed=closed) != whole:
            return False
    return True


def _codec(examination: Examination) -> ChatCodec:
    assert examination.codec is not None, "the check `checkpoint` comes first"
    return examination.codec
