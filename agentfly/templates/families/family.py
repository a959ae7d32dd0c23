"""The form of a model family's entry: everything that differs from family to family, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedTokenizerBase

Level = Literal["endpoint", "token-exact", "trained"]
Untried = Literal["two turns on vLLM", "a step of verl"]
LEVELS: Mapping[Level, str] = {
    "endpoint": "works as an endpoint, not token-exact",
    "token-exact": "token-exact rollouts on vLLM",
    "trained": "token-exact rollouts on vLLM, trained with verl",
}
# An id, and how often it follows itself.
Run = tuple[int, int]
Runs = tuple[Run, ...]


class ImageProcessor(Protocol):
    """The image half of a processor."""

    def __call__(self, *, images: Sequence[Image.Image], return_tensors: str) -> Mapping[str, Any]:
        """Return the model's inputs of images, as tensors of "np" or "pt"."""
        ...


class Processor(Protocol):
    """A processor: tokenizer and image processor."""

    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    image_token: str
    chat_template: str | None

    def __call__(self, **inputs: Any) -> Mapping[str, Any]:
        """Return ids and inputs of texts and images."""
        ...


ImageIds = Callable[[Processor, "Image.Image", int], Runs]


@dataclass(frozen=True)
class CallForm:
    """A form of tool calls.

    Attributes:
        name: under which `agentfly.tools.call_forms` has its reader.
        mark: text that every call in this form has, and none in another form.
        example: a call, for messages to the model.
        vllm_parser: vLLM's name of its parser.
    """

    name: str
    mark: str
    example: str
    vllm_parser: str


@dataclass(frozen=True)
class Reasoning:
    """The rules of a family for thoughts.

    Attributes:
        begins, ends: marks of a thought in the text of a turn, as `ChatCodec.decode` shows it.
        closing: text that closes a thought that was cut.
        history: thoughts of earlier turns in the family's own template: all kept, or only those after the last message
            of the user. Within one task, where only tools speak after the user, both are the same.
    """

    begins: str = "<think>"
    ends: str = "</think>"
    closing: str = "\n</think>\n\n"
    history: Literal["all kept", "kept since the last user message"] = "kept since the last user message"


@dataclass(frozen=True)
class Placeholder:
    """How a prompt stands for an image.

    Attributes:
        ids: returns the ids of an image; its index among the images of the conversation is the last argument.
        mark: attribute of the processor with the text that the template writes for an image.
        around: text that the family's processor writes before and after the image's own ids.
        numbered: the ids depend on the index.
    """

    ids: ImageIds
    mark: str = "image_token"
    around: str = ""
    numbered: bool = False


@dataclass(frozen=True)
class Support:
    """How far one model type of a family is supported with the pinned libraries.

    Attributes:
        goal: highest level that the libraries allow.
        model: class of transformers.
        limits: what does not work, each with the upstream file and line that says so.
        untried: checks that the level of the goal needs and that have not passed yet.
    """

    goal: Level
    model: str
    limits: tuple[str, ...] = ()
    untried: tuple[Untried, ...] = ()

    @property
    def level(self) -> Level:
        """The highest level that the checks have reached."""
        if "two turns on vLLM" in self.untried:
            return "endpoint"
        return "token-exact" if self.untried and self.goal == "trained" else self.goal


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        name: of the entry.
        title: for people.
        processors: classes of transformers.
        templates: our chat templates for it, the recommended one first.
        placeholder: see `Placeholder`; None where no processor of the family loads here.
        calls: the form of tool calls that the family was taught.
        reasoning: rules for thoughts; None for a family that has none.
        ends: tokens that end a turn, beside the tokenizer's own end token.
        opens_next: those of `ends` that begin the next message instead of closing the turn.
        shown: special tokens that `decode` keeps, because calls or thoughts are written with them.
        tool_images: where the images of a tool's result stand in the family's format.
        positions: "1d", or "mrope": one for time, height and width each.
        trainer: what the trainer is given for images; None where verl cannot train the family.
        support: by model type, as `config.json` names it.
    """

    name: str
    title: str
    processors: tuple[str, ...]
    templates: tuple[str, ...]
    placeholder: Placeholder | None
    calls: CallForm
    ends: tuple[str, ...]
    support: Mapping[str, Support]
    reasoning: Reasoning | None = None
    opens_next: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    tool_images: Literal["in place", "after the text"] = "in place"
    positions: Literal["1d", "mrope"] = "1d"
    trainer: Literal["grids"] | None = None

    @property
    def goal(self) -> Level:
        """The highest level that the libraries allow any of its model types."""
        order: tuple[Level, ...] = ("endpoint", "token-exact", "trained")
        return max((support.goal for support in self.support.values()), key=order.index)
