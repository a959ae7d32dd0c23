"""Encode messages as exact token ids, images included.

The codec is the only place that tokenises a conversation. It renders the first prompt once, and afterwards only the
text after a sampled turn, so sampled ids are never decoded and tokenised again. An image becomes a run of placeholder
ids whose length the processor gives for exactly this image; rollout, warm start and training share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from agentfly.errors import ImageError, MissingExtraError, TemplateError, first_line
from agentfly.messages import Message, TextPart
from agentfly.model_source import find_model
from agentfly.templates.loader import load_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

# Private-use character: no tokenizer of ours emits it and no user types it.
_SENTINEL = "\ue0ff"
_CACHED_LENGTHS = 65536

LoadImage = Callable[[str], Image.Image]
Schemas = Sequence[Mapping[str, object]]


class ImageProcessor(Protocol):
    """The image half of a Qwen-VL processor."""

    merge_size: int

    def __call__(self, *, images: Sequence[Image.Image], return_tensors: str) -> Mapping[str, Any]:
        """Return the patches and grids of images, as tensors of "np" or "pt"."""
        ...

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict[str, object]) -> int:
        """Return the number of patches of an image of this size in pixels."""
        ...


class Processor(Protocol):
    """A Qwen-VL style processor: tokenizer and image processor."""

    tokenizer: PreTrainedTokenizerBase
    image_processor: ImageProcessor
    image_token: str
    chat_template: str | None


class ChatCodec:
    """Token ids of conversations for one processor and one chat template.

    Args:
        processor: a Qwen-VL style processor (tokenizer + image processor).
        template: template text; the processor's own when None.
    """

    def __init__(self, processor: ProcessorMixin, template: str | None = None) -> None:
        self.processor: Processor = processor
        self.tokenizer: PreTrainedTokenizerBase = self.processor.tokenizer
        chosen = template or self.processor.chat_template or self.tokenizer.chat_template
        if not chosen:
            raise TemplateError(
                "this checkpoint has no chat template; pass template='qwen2.5-vl-system-tool' or a path"
            )
        self.template: str = chosen
        self._image_lengths: dict[str, int] = {}

    @classmethod
    def from_pretrained(cls, model: str, template: str | None = None, *, trust_remote_code: bool = False) -> ChatCodec:
        """Make the codec of a checkpoint.

        Args:
            model: folder or hub name.
            template: name or path of a chat template; None takes the checkpoint's own.
            trust_remote_code: run code of the checkpoint.

        Raises:
            ConfigError: the folder is no checkpoint, or the hub name is out of reach.
            MissingExtraError: transformers is not installed.
            TemplateError: unknown template.
        """
        source = find_model(model)
        try:
            from transformers import AutoProcessor
        except ImportError as fault:
            raise MissingExtraError("token-exact rollouts", "verl") from fault
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
        return cls(processor, load_template(template) if template else None)

    @cached_property
    def image_id(self) -> int:
        """Id of the image placeholder."""
        return int(self.tokenizer.convert_tokens_to_ids(self.processor.image_token))

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a turn."""
        found = {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids("<|im_end|>")}
        return frozenset(int(i) for i in found if isinstance(i, int))

    @cached_property
    def opens_thought(self) -> bool:
        """True if a turn of the assistant begins inside a thought, which the chat template has opened."""
        text = self._render([Message("user", (TextPart("-"),))], ())
        # As `decode` shows it: where tags are special tokens, a turn shows none of them either.
        return self.decode(self.tokenizer(text, add_special_tokens=False)["input_ids"]).rstrip().endswith("<think>")

    def prompt_ids(self, messages: Sequence[Message], tools: Schemas, load_image: LoadImage) -> list[int]:
        """Return the ids of a conversation up to the assistant's turn, placeholders expanded.

        Args:
            messages: the conversation.
            tools: schemas of the tools.
            load_image: returns the image of a handle.
        """
        return self._encode(self._render(messages, tools), messages, load_image)

    def continuation_ids(
        self, messages: Sequence[Message], tools: Schemas, load_image: LoadImage, *, closed: bool
    ) -> list[int]:
        """Return the ids that follow a sampled turn.

        Args:
            messages: the messages after the assistant's turn, such as observations.
            tools: schemas, as for the prompt.
            load_image: returns the image of a handle.
            closed: True if the sampled ids already end with the end-of-turn token.

        Returns:
            Ids from (or after) the end-of-turn token to the next generation prompt.
        """
        turn = [Message("user", (TextPart("-"),)), Message("assistant", (TextPart(_SENTINEL),)), *messages]
        text = self._render(turn, tools)
        # The first one: an observation may hold the character too.
        tail = text.partition(_SENTINEL)[2]
        if closed:
            tokens = (str(self.tokenizer.convert_ids_to_tokens(token_id)) for token_id in self.eos_ids)
            tail = tail.removeprefix(next((token for token in tokens if tail.startswith(token)), ""))
        return self._encode(tail, messages, load_image)

    def turn_text(self, message: Message) -> str:
        """Return a turn of the assistant as the template writes it, calls included, without the end-of-turn token."""
        opening = Message("user", (TextPart("-"),))
        begin = self._render([opening], ())
        end = self._render([opening, Message("assistant", (TextPart(_SENTINEL),))], ()).rpartition(_SENTINEL)[2]
        whole = self._render([opening, message], ())
        if not (whole.startswith(begin) and whole.endswith(end)):
            raise TemplateError("the chat template does not render a conversation as a prefix of its continuation")
        # As in `escape_special_tokens`, which does not reach into the arguments of calls.
        return whole[len(begin) : len(whole) - len(end)].replace("<|", "< |")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of sampled ids without the special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def collapse(self, ids: Sequence[int]) -> list[int]:
        """Return ids with one placeholder for each image instead of a run, which is the form of vLLM's prompts."""
        return [t for i, t in enumerate(ids) if t != self.image_id or i == 0 or ids[i - 1] != self.image_id]

    def image_length(self, handle: str, load_image: LoadImage) -> int:
        """Return the number of placeholder ids of an image.

        Args:
            handle: of the image.
            load_image: returns the image of a handle.

        Raises:
            ImageError: the processor refuses its shape, such as sides that differ more than 200-fold.
        """
        if handle not in self._image_lengths:
            if len(self._image_lengths) >= _CACHED_LENGTHS:
                self._image_lengths.clear()
            image = load_image(handle)
            try:
                patches = self.processor.image_processor.get_number_of_image_patches(image.height, image.width, {})
            except ValueError as fault:
                raise ImageError(
                    f"the model cannot be shown an image of {image.width}x{image.height} pixels ({first_line(fault)}): "
                    "crop it, or give it a border"
                ) from fault
            self._image_lengths[handle] = int(patches) // self.processor.image_processor.merge_size**2
        return self._image_lengths[handle]

    def image_runs(self, ids: Sequence[int]) -> list[int]:
        """Return the lengths of the placeholder runs, in order."""
        runs: list[int] = []
        for i, token in enumerate(ids):
            if token == self.image_id:
                if i and ids[i - 1] == self.image_id:
                    runs[-1] += 1
                else:
                    runs.append(1)
        return runs

    def _render(self, messages: Sequence[Message], tools: Schemas) -> str:
        import jinja2

        plain = [escape_special_tokens(message).to_template() for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                plain,
                tools=[dict(tool) for tool in tools] or None,
                chat_template=self.template,
                add_generation_prompt=True,
                tokenize=False,
            )
        except jinja2.TemplateError as fault:
            at = f", line {fault.lineno}" if isinstance(fault, jinja2.TemplateSyntaxError) else ""
            raise TemplateError(f"the chat template{at}: {fault.message}") from fault
        return str(text)

    def _encode(self, text: str, messages: Sequence[Message], load_image: LoadImage) -> list[int]:
        lengths = [self.image_length(handle, load_image) for message in messages for handle in message.images]
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        placeholders = ids.count(self.image_id)
        if placeholders != len(lengths):
            raise TemplateError(
                f"the chat template rendered {placeholders} of {len(lengths)} images; "
                "use a template that keeps images in every turn, such as qwen2.5-vl-system-tool"
            )
        remaining = iter(lengths)
        return [t for token in ids for t in ([token] * next(remaining) if token == self.image_id else [token])]


def escape_special_tokens(message: Message) -> Message:
    """Return a message whose texts hold no special tokens: a space after `<` takes their meaning away.

    A special token in a text would forge a turn or an image.
    """
    if not any(isinstance(part, TextPart) and "<|" in part.text for part in message.parts):
        return message
    parts = tuple(TextPart(p.text.replace("<|", "< |")) if isinstance(p, TextPart) else p for p in message.parts)
    return Message(message.role, parts, message.tool_calls, message.tool_call_id)
