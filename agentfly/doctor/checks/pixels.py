"""Check that images, up to the sizes that tools make, fit the processor and the engine's context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from PIL import Image

from agentfly.agents.llm_backends.vllm_defaults import ANY_DEVICE
from agentfly.doctor.examination import Examination
from agentfly.doctor.findings import Finding, error, ok, warning
from agentfly.templates import ChatCodec

Size = tuple[int, int]

# Smaller than any limit, a small photograph, a diffusion engine's result, a camera's photograph, a panorama.
SIZES: Sequence[Size] = ((20, 20), (512, 512), (1024, 1024), (4000, 3000), (2000, 300))
_RESULT, _PHOTO = (1024, 1024), (4000, 3000)
# System prompt with schemas, and the text of the turns.
_TEXT_TOKENS = 1500
# The source, one intermediate image, the result.
_LEAST_IMAGES = 3
_SHRINK = 'lower "max_pixels" (or size.longest_edge) in the checkpoint\'s preprocessor_config.json, e.g. to 602112'


def limits(examination: Examination) -> Iterator[Finding]:
    """Check the images of a chain against the context of the engine."""
    codec, request = examination.codec, examination.request
    assert codec is not None, "the check `checkpoint` comes first"

    def processed(size: Size) -> int:
        images = codec.processor.image_processor
        grid = images(images=[Image.new("RGB", size)], return_tensors="np")["image_grid_thw"][0]
        return int(grid[0] * grid[1] * grid[2]) // int(images.merge_size) ** 2

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
