"""EditScore (Luo et al. 2025, arXiv 2509.23909): a vision-language model that was trained to rate edits in words.

It is asked two questions, as in VIEScore: success and no over-edit of both images, naturalness and artefacts of the
result. Form of the requests and of the replies: github.com/VectorSpaceLab/EditScore, `editscore/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import Field

from agentfly.errors import ConfigError, EvaluatorError, require, shortened
from agentfly.evaluators.base import EditSample, Score
from agentfly.evaluators.judge.schemes import viescore
from agentfly.evaluators.learned.base import (
    LearnedEvaluator,
    LearnedSettings,
    RewardModel,
    paired,
    without_special_tokens,
)
from agentfly.evaluators.learned.prompts import packaged_file, read_texts
from agentfly.lenient_json import find_json
from agentfly.model_source import check_folder, find_model
from agentfly.vision.model_runtime import loading, resolve_dtype

if TYPE_CHECKING:
    import torch

CLASSES: Mapping[str, str] = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
_WANTED = "a Qwen2.5-VL or Qwen3-VL model with the weights of EditScore"
_FILE = "vie_prompts.py"
_NAMES = (
    "_context_no_delimit_reasoning_first",
    "_prompts_0shot_two_image_edit_rule",
    "_prompts_0shot_tie_rule_SC",
    "_prompts_0shot_rule_PQ",
)
_REMEDY = (
    f"give prompts=FILE, editscore/{_FILE} of github.com/VectorSpaceLab/EditScore, or `pip install --no-deps "
    "editscore`, of which only that file is read"
)
_RATINGS = (("success", "no_over_edit"), ("natural", "artefact_free"))
# The form of a turn that the Qwen2.5-VL variants were trained with, in place of the checkpoint's own template.
_QWEN2_5_TURN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{images}{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
_QWEN2_5_IMAGE = "<img{number}>: <|vision_start|><|image_pad|><|vision_end|>"
_SAMPLED = 0.7  # temperature of a second attempt, where the first one took the likeliest tokens


class EditScoreSettings(LearnedSettings):
    """The model and its sampling.

    Attributes:
        adapter: LoRA on the model, as EditScore publishes its weights; None for a merged checkpoint.
        prompts: file with the prompts; by default that of an installed `editscore`.
        highest: ratings go from 0 to this.
        passes: independent judgements of a sample; their mean is the score.
        temperature: 0 takes the likeliest tokens; several passes are of use only above 0.
        top_p, top_k: of the sampling above 0.
        seed: of the first pass; passes and attempts add to it.
        max_tokens: tokens of a reply at most.
        attempts: requests for each rating at most; a reply without ratings is sampled again.
        max_pixels: of each image.
    """

    adapter: str | None = None
    prompts: Path | None = None
    highest: int = Field(25, ge=1)
    passes: int = Field(1, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(20, ge=1)
    seed: int = 42
    max_tokens: int = Field(512, ge=16)
    attempts: int = Field(2, ge=1)
    max_pixels: int = Field(1024 * 1024, ge=1024)


class EditScoreModel(RewardModel):
    """EditScore. With SC and PQ the two ratings of each question over `highest`, from 0 to 1:

        score = mean over passes of 100 * sqrt(min(SC) * min(PQ))

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ConfigError: the folder is not a checkpoint.
    """

    settings: EditScoreSettings

    def __init__(self, settings: EditScoreSettings) -> None:
        super().__init__(settings)
        require("transformers", "EditScore", "rewards")
        check_folder(settings.model, wanted=_WANTED)
        self._processor: Any = None
        self._kind = ""

    def check(self) -> None:
        """Read the prompts; see `RewardModel.check`."""
        self._prompts()

    def load(self, device: str) -> torch.nn.Module:
        """Load model, adapter and processor; see `RewardModel.load`."""
        import transformers

        self._prompts()
        chosen = self.settings
        source = find_model(chosen.model, wanted=_WANTED, revision=chosen.revision)
        with loading(chosen.model, _WANTED):
            self._kind = transformers.AutoConfig.from_pretrained(source, revision=chosen.revision).model_type
            if self._kind not in CLASSES:
                raise ConfigError(f"{chosen.model!r} is a {self._kind} model: give {_WANTED}")
            self._processor = transformers.AutoProcessor.from_pretrained(
                source, revision=chosen.revision, padding_side="left"
            )
            model: Any = getattr(transformers, CLASSES[self._kind]).from_pretrained(
                source, revision=chosen.revision, dtype=resolve_dtype(chosen.dtype, device)
            )
            if chosen.adapter is not None:
                require("peft", "the adapter of EditScore", "rewards")
                import peft

                weights = find_model(chosen.adapter, "adapter_config.json", "a LoRA adapter")
                model = peft.PeftModel.from_pretrained(model, weights).merge_and_unload()
        made: torch.nn.Module = model.to(device).eval()
        return made

    def score(self, model: torch.nn.Module, samples: Sequence[EditSample]) -> Sequence[Score | EvaluatorError]:
        """Ask both questions about each sample; see `RewardModel.score`."""
        semantic, perceptual = self._prompts()
        requests: list[tuple[list[Image.Image], str]] = []
        for sample in samples:
            images = paired(sample, self.settings.max_pixels)
            instruction = without_special_tokens(sample.instruction)
            # The question about quality shows the result alone.
            requests += [([*images], semantic.replace("<instruction>", instruction)), ([images[1]], perceptual)]
        passes = [self._ask_all(model, requests, number) for number in range(self.settings.passes)]
        return [
            self._combined([(found[2 * place], found[2 * place + 1]) for found in passes])
            for place in range(len(samples))
        ]

    def _combined(self, passes: Sequence[tuple[_Reply, _Reply]]) -> Score | EvaluatorError:
        """Return the mean over passes, each with the replies to both questions."""
        ratings: list[dict[str, float]] = []
        for replies in passes:
            rated: dict[str, float] = {}
            for names, reply in zip(_RATINGS, replies, strict=True):
                if isinstance(reply, EvaluatorError):
                    return reply
                rated |= dict(zip(names, (value / self.settings.highest for value in reply[0]), strict=True))
            ratings.append(rated)
        aspects = {name: sum(one[name] for one in ratings) / len(ratings) for name in ratings[0]}
        feedback = " ".join(reply[1] for reply in passes[0] if not isinstance(reply, EvaluatorError))
        return Score(min(sum(map(viescore, ratings)) / len(ratings), 100.0), shortened(feedback.strip(), 1000), aspects)

    def _ask_all(
        self, model: torch.nn.Module, requests: Sequence[tuple[list[Image.Image], str]], number: int
    ) -> list[_Reply]:
        """Return the replies to requests in one pass; those without ratings are asked for again."""
        found: list[_Reply] = [EvaluatorError("not asked")] * len(requests)
        open_ = list(range(len(requests)))
        for attempt in range(self.settings.attempts):
            if not open_:
                break
            temperature = self.settings.temperature or (_SAMPLED if attempt else 0.0)
            seed = self.settings.seed + number * self.settings.attempts + attempt
            replies = self._ask(model, [requests[place] for place in open_], temperature, seed)
            for place, text in zip(open_, replies, strict=True):
                found[place] = read_reply(text, self.settings.highest)
            open_ = [place for place in open_ if isinstance(found[place], EvaluatorError)]
        return found

    def _ask(
        self, model: Any, requests: Sequence[tuple[list[Image.Image], str]], temperature: float, seed: int
    ) -> list[str]:
        """Return the model's replies to a batch of requests."""
        import torch

        inputs = self._processor(
            text=[self._turn(len(images), text) for images, text in requests],
            images=[images for images, _ in requests],
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        sampling: dict[str, object] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature:
            chosen = {"top_p": self.settings.top_p, "top_k": self.settings.top_k}
            sampling = {"do_sample": True, "temperature": temperature, **chosen}
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            ids = model.generate(**inputs, max_new_tokens=self.settings.max_tokens, **sampling)
        new = ids[:, inputs["input_ids"].shape[1] :]
        replies: list[str] = self._processor.batch_decode(new, skip_special_tokens=True)
        return replies

    def _turn(self, images: int, text: str) -> str:
        if self._kind == "qwen2_5_vl":
            shown = "".join(_QWEN2_5_IMAGE.format(number=number) for number in range(1, images + 1))
            return _QWEN2_5_TURN.format(images=shown, text=text)
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        turn: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return turn

    def _prompts(self) -> tuple[str, str]:
        """Return the prompts of both questions, the scale filled in."""
        path = self.settings.prompts or packaged_file("editscore", _FILE)
        if path is None:
            raise ConfigError(f"EditScore needs the prompts that it was trained with: {_REMEDY}")
        context, two_images, semantic, perceptual = read_texts(path, _NAMES, _REMEDY).values()
        highest = str(self.settings.highest)
        return (
            "\n".join((context, two_images, semantic.replace("10", highest))),
            "\n".join((context, perceptual.replace("10", highest))),
        )


_Reply = tuple[tuple[float, float], str] | EvaluatorError


def read_reply(text: str, highest: int) -> _Reply:
    """Return the two ratings of a reply and its reasons, or why there are none. Nothing is guessed.

    Args:
        text: with a JSON object that has `score`, a list of two numbers, and perhaps `reasoning`.
        highest: ratings go from 0 to this.
    """
    for item in reversed(list(find_json(text, "{"))):
        given = item.get("score") if isinstance(item, Mapping) else None
        if not isinstance(item, Mapping) or not isinstance(given, list) or len(given) != 2:
            continue
        numbers = [one for one in given if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(numbers) == 2 and all(0 <= one <= highest for one in numbers):
            reasons = item.get("reasoning")
            return (float(numbers[0]), float(numbers[1])), reasons if isinstance(reasons, str) else ""
    return EvaluatorError(f"EditScore gave no two ratings from 0 to {highest}: {shortened(text, 120)!r}")


class EditScoreEvaluator(LearnedEvaluator):
    """`EditScoreModel` as an evaluator.

    Args:
        settings: of the model.
    """

    def __init__(self, settings: EditScoreSettings) -> None:
        super().__init__(EditScoreModel(settings))
