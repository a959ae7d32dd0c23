"""Encode messages as exact token ids, images included.

The codec is the only place that tokenises a conversation. It renders the first prompt once, and afterwards only the
text after a sampled turn, so sampled ids are never decoded and tokenised again. The template writes one placeholder for
an image; its ids are those that the processor gives for exactly this image, in rollout, warm start and training alike.
What differs from family to family is in the entry of the family (`agentfly.templates.families`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from agentfly.errors import MissingExtraError, TemplateError
from agentfly.messages import Message, TextPart, ToolCall
from agentfly.model_source import find_model
from agentfly.templates.families import (
    CALL_FORMS,
    CallForm,
    Family,
    Processor,
    Reasoning,
    find_family,
    model_type_of,
)
from agentfly.templates.loader import load_template
from agentfly.templates.prompt_images import LoadImage, PromptImages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

# Private-use character: no tokenizer of ours emits it and no user types it.
_SENTINEL = "\ue0ff"
_PROBE = ToolCall("call_0", "probe", {"argument": "value"})

_CACHED_TEXTS = 512  # the chains of one prompt begin with the same text

Schemas = Sequence[Mapping[str, object]]


class ChatCodec:
    """Token ids of conversations for one processor and one chat template.

    Args:
        processor: of a model family that has an entry.
        template: template text; the processor's own when None.
        model_type: of the checkpoint's configuration, where families share a processor; that of `processor.config` or
            of the processor's class when None.

    Raises:
        TemplateError: no family has such a processor, or there is no template.
    """

    def __init__(
        self, processor: ProcessorMixin, template: str | None = None, *, model_type: str | None = None
    ) -> None:
        self.processor: Processor = processor
        self.tokenizer: PreTrainedTokenizerBase = self.processor.tokenizer
        # verl gives the processor the configuration of its model.
        known = model_type or getattr(getattr(processor, "config", None), "model_type", None)
        family = find_family(known, type(processor).__name__)
        if family is None or family.placeholder is None:
            raise TemplateError(
                f"no model family has a {type(processor).__name__} with which rollouts can be token-exact; "
                "the model works as an endpoint (backend='client'), and docs/models.md lists the families"
            )
        self.family: Family = family
        self._images = PromptImages(self.processor, family.placeholder)
        chosen = template or self.processor.chat_template or self.tokenizer.chat_template
        if not chosen:
            raise TemplateError(
                f"this checkpoint has no chat template; pass template={family.templates[0]!r} or a path"
            )
        self.template: str = chosen
        self._ids_of: dict[str, list[int]] = {}

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
            TemplateError: unknown template, or a model of no known family.
        """
        source = find_model(model)
        try:
            from transformers import AutoProcessor, PretrainedConfig
        except ImportError as fault:
            raise MissingExtraError("token-exact rollouts", "verl") from fault
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
        text, local = load_template(template) if template else None, Path(source).is_dir()
        found = model_type_of(Path(source)) if local else PretrainedConfig.get_config_dict(source)[0].get("model_type")
        return cls(processor, text, model_type=found)

    @property
    def image_id(self) -> int:
        """Id that stands for a piece of an image."""
        return self._images.piece_id

    @property
    def mark_id(self) -> int:
        """Id of the placeholder that the template writes for a whole image; vLLM's prompts have it, too."""
        return self._images.mark_id

    @property
    def never_sampled(self) -> frozenset[int]:
        """Ids that stand for images: a sampled one would stand for an image that does not exist."""
        return frozenset((self.image_id, self.mark_id))

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a turn."""
        found = {self.tokenizer.eos_token_id, *(self._id_of(token) for token in self.family.ends)}
        return frozenset(int(i) for i in found if isinstance(i, int))

    @cached_property
    def end_id(self) -> int:
        """Id of the token with which the family ends a turn of the assistant."""
        found = self._id_of(self.family.ends[0]) if self.family.ends else self.tokenizer.eos_token_id
        return found if isinstance(found, int) else min(self.eos_ids)

    @property
    def reasoning(self) -> Reasoning:
        """The rules for thoughts; those of most families where this one has none, as a template may open a thought."""
        return self.family.reasoning or Reasoning()

    @cached_property
    def opens_thought(self) -> bool:
        """True if a turn of the assistant begins inside a thought, which the chat template has opened."""
        text = self._render([Message("user", (TextPart("-"),))], ())
        # As `decode` shows it: where tags are special tokens, a turn shows none of them either.
        shown = self.decode(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return shown.rstrip().endswith(self.reasoning.begins)

    @cached_property
    def closing_ids(self) -> list[int]:
        """Ids that close a thought which a limit has cut."""
        return list(self.tokenizer(self.reasoning.closing, add_special_tokens=False)["input_ids"])

    def in_thought(self, text: str) -> bool:
        """Return True if the text of a turn ends inside a thought, which the template or the policy has opened."""
        begun = text.rfind(self.reasoning.begins)
        return (begun >= 0 or self.opens_thought) and text.rfind(self.reasoning.ends) <= begun

    @cached_property
    def call_form(self) -> CallForm:
        """The form in which the chat template writes calls; the family's own where it writes none."""
        called = [Message("user", (TextPart("-"),)), Message("assistant", (), (_PROBE,))]
        try:
            written = self._render(called, ())
        except TemplateError:
            written = ""
        return next((form for form in CALL_FORMS if form.mark in written), self.family.calls)

    def prompt_ids(self, messages: Sequence[Message], tools: Schemas, load_image: LoadImage) -> list[int]:
        """Return the ids of a conversation up to the assistant's turn, images expanded.

        Args:
            messages: the conversation.
            tools: schemas of the tools.
            load_image: returns the image of a handle.
        """
        return self._encode(self._render(messages, tools), messages, load_image)

    def continuation_ids(
        self,
        messages: Sequence[Message],
        tools: Schemas,
        load_image: LoadImage,
        *,
        ended_by: int | None,
        images_before: int = 0,
    ) -> list[int]:
        """Return the ids that follow a sampled turn.

        Args:
            messages: the messages after the assistant's turn, such as observations.
            tools: schemas, as for the prompt.
            load_image: returns the image of a handle.
            ended_by: the last sampled id if it ends a turn (`end_of`); None where a limit cut the turn.
            images_before: images of the conversation before these messages; some families number them.

        Returns:
            Ids from (or after) the end-of-turn token to the next generation prompt.
        """
        turn = [Message("user", (TextPart("-"),)), Message("assistant", (TextPart(_SENTINEL),)), *messages]
        text = self._render(turn, tools)
        # The first one: an observation may hold the character too.
        tail = text.partition(_SENTINEL)[2]
        if ended_by is not None:
            tail = tail.removeprefix(next((token for token in self._ends(ended_by) if tail.startswith(token)), ""))
        return self._encode(tail, messages, load_image, images_before)

    def end_of(self, sampled: Sequence[int]) -> int | None:
        """Return the id that ends a sampled turn; None where a limit cut it."""
        return sampled[-1] if sampled and sampled[-1] in self.eos_ids else None

    def turn_text(self, message: Message) -> str:
        """Return a turn of the assistant as the template writes it, calls included, without the end-of-turn token."""
        opening = Message("user", (TextPart("-"),))
        begin = self._render([opening], ())
        end = self._render([opening, Message("assistant", (TextPart(_SENTINEL),))], ()).rpartition(_SENTINEL)[2]
        whole = self._render([opening, message], ())
        if not (whole.startswith(begin) and whole.endswith(end)):
            raise TemplateError("the chat template does not render a conversation as a prefix of its continuation")
        # As in `escape`, which does not reach into the arguments of calls.
        return self._without_tokens(whole[len(begin) : len(whole) - len(end)], keep=self.family.shown)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of sampled ids without the special tokens, but with those that calls are written with."""
        if not self._shown_ids:
            return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        parts: list[str] = []
        start = 0
        for place, token in enumerate(ids):
            if token in self._shown_ids:
                parts += self.tokenizer.decode(list(ids[start:place]), skip_special_tokens=True), self._shown_ids[token]
                start = place + 1
        return "".join([*parts, self.tokenizer.decode(list(ids[start:]), skip_special_tokens=True)])

    def escape(self, message: Message) -> Message:
        """Return a message whose texts hold no special tokens, each of which could forge a turn or an image."""
        parts = tuple(
            TextPart(self._without_tokens(part.text)) if isinstance(part, TextPart) else part for part in message.parts
        )
        return message if parts == message.parts else replace(message, parts=parts)

    def collapse(self, ids: Sequence[int], images: Sequence[str], load_image: LoadImage) -> list[int]:
        """Return ids with one placeholder for each image, which is the form of vLLM's prompts.

        Args:
            ids: of a conversation.
            images: handles of its images, in order.
            load_image: returns the image of a handle.

        Raises:
            TemplateError: the ids of an image are not where they should be.
        """
        return self._images.collapse(ids, images, load_image)

    def image_length(self, handle: str, load_image: LoadImage) -> int:
        """Return the number of ids of an image.

        Args:
            handle: of the image.
            load_image: returns the image of a handle.

        Raises:
            ImageError: the processor refuses its shape, such as sides that differ more than 200-fold.
        """
        return sum(count for _, count in self._images.runs(handle, load_image, 0))

    def image_places(self, ids: Sequence[int], images: Sequence[str], load_image: LoadImage) -> list[tuple[int, int]]:
        """Return the span of each image in the ids of a conversation; see `collapse`."""
        return self._images.places(ids, images, load_image)

    def image_runs(self, ids: Sequence[int]) -> list[int]:
        """Return the lengths of the runs of the id that stands for images, in order."""
        runs: list[int] = []
        for i, token in enumerate(ids):
            if token == self.image_id:
                if i and ids[i - 1] == self.image_id:
                    runs[-1] += 1
                else:
                    runs.append(1)
        return runs

    @cached_property
    def _shown_ids(self) -> dict[int, str]:
        found = ((self._id_of(token), token) for token in self.family.shown)
        return {number: token for number, token in found if number is not None}

    @cached_property
    def _tokens(self) -> re.Pattern[str] | None:
        """Special tokens that a `<|` does not begin."""
        added = self.tokenizer.added_tokens_decoder.values()
        found = {self._images.mark, *(token.content for token in added if token.special)}
        found = {token for token in found if not token.startswith("<|")}
        return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True)))) if found else None

    def _without_tokens(self, text: str, keep: Sequence[str] = ()) -> str:
        """Return a text with a space after the first character of each special token, which takes its meaning away."""
        if keep:
            parts = re.split(f"({'|'.join(map(re.escape, keep))})", text)
            return "".join(part if part in keep else self._without_tokens(part) for part in parts)
        text = text.replace("<|", "< |")
        return text if self._tokens is None else self._tokens.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def _id_of(self, token: str) -> int | None:
        """Return the id of a token; None where the vocabulary has none of that name."""
        found = self.tokenizer.convert_tokens_to_ids(token)
        return found if isinstance(found, int) and found != self.tokenizer.unk_token_id else None

    def _ends(self, ended_by: int) -> list[str]:
        """Return the tokens that need not be rendered after a turn that ended with an id.

        Any token that closes a turn closes it. One that begins the next message does so only for a message of its kind.
        """
        names = {str(self.tokenizer.convert_ids_to_tokens(number)): number for number in sorted(self.eos_ids)}
        return [name for name, number in names.items() if number == ended_by or name not in self.family.opens_next]

    def _render(self, messages: Sequence[Message], tools: Schemas) -> str:
        import jinja2

        plain = [self.escape(message).to_template() for message in messages]
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

    def _tokenised(self, text: str) -> list[int]:
        """Return the ids of a text, which are kept: do not change them."""
        if (found := self._ids_of.get(text)) is None:
            if len(self._ids_of) >= _CACHED_TEXTS:
                self._ids_of.clear()
            found = self._ids_of[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return found

    def _encode(
        self, text: str, messages: Sequence[Message], load_image: LoadImage, images_before: int = 0
    ) -> list[int]:
        handles = [handle for message in messages for handle in message.images]
        blocks = [self._images.ids(handle, load_image, images_before + i) for i, handle in enumerate(handles)]
        ids = self._tokenised(self._images.written(text))
        placeholders = ids.count(self.mark_id)
        if placeholders != len(blocks):
            raise TemplateError(
                f"the chat template rendered {placeholders} of {len(blocks)} images; "
                f"use a template that keeps images in every turn, such as {self.family.templates[0]}"
            )
        remaining = iter(blocks)
        return [t for token in ids for t in (next(remaining) if token == self.mark_id else [token])]
