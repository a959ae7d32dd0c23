"""EditReward (Wu et al. 2025, arXiv 2509.26346): a vision-language model with two heads that give numbers.

It reads both images with two prompts, one about the instruction and one about quality. At a special token of each, a
head gives the mean and the logarithm of the spread of a reward. Form of checkpoint and requests:
github.com/TIGER-AI-Lab/EditReward, `EditReward/inference_vl_edit.py` and `EditReward/model/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import Field

from agentfly.errors import ConfigError, EvaluatorError, require
from agentfly.evaluators.base import EditSample, Score
from agentfly.evaluators.learned.base import (
    LearnedEvaluator,
    LearnedSettings,
    RewardModel,
    paired,
    without_special_tokens,
)
from agentfly.evaluators.learned.prompts import read_texts
from agentfly.model_source import check_folder, find_model, is_local
from agentfly.vision.model_runtime import loading, resolve_dtype

if TYPE_CHECKING:
    import torch

TOKEN = "<|Reward|>"
_WANTED = "a checkpoint of EditReward"
# The prompt of each aspect, in the order of the heads.
_PROMPTS: Mapping[str, str] = {"following": "INSTRUCTION_EDIT_FOLLOWING", "quality": "INSTRUCTION_EDIT_QUALITY"}
_ENDING = "prompt_with_special_token"
_REMEDY = (
    "give prompts=FOLDER, EditReward/dataset of a clone of github.com/TIGER-AI-Lab/EditReward, of which prompts.py and "
    "data_collator_qwen_edit.py are read"
)
# The Qwen2.5-VL variants see each image at about this size, larger or smaller (EditReward's `prepare_batch`).
_AREA = 256 * 28 * 28


class EditRewardSettings(LearnedSettings):
    """The model and the scale of its rewards.

    Attributes:
        base: model whose configuration and processor the checkpoint goes with; None where the checkpoint has them.
        prompts: folder with the prompts.
        middle: reward that counts as 50 of 100.
        width: rewards above the middle that count as 73 of 100.
        max_pixels: of each image of a Qwen3-VL variant.
    """

    base: str | None = None
    prompts: Path | None = None
    middle: float = 0.0
    width: float = Field(1.0, gt=0)
    max_pixels: int = Field(1024 * 1024, ge=1024)


class EditRewardModel(RewardModel):
    """EditReward. With r_1 and r_2 the mean rewards of both heads, which have no bounds:

        score   = 100 / (1 + exp(-((r_1 + r_2) / 2 - middle) / width))
        aspects = the same of each head, over 100: following, quality

    The order of scores is that of the rewards, whatever middle and width are.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        ConfigError: the folder is not a checkpoint.
    """

    settings: EditRewardSettings

    def __init__(self, settings: EditRewardSettings) -> None:
        super().__init__(settings)
        require("transformers", "EditReward", "rewards")
        check_folder(settings.base or settings.model, wanted=_WANTED)
        if is_local(settings.model) and not Path(settings.model).expanduser().is_dir():
            raise ConfigError(
                f"{settings.model}: there is no such folder: give {_WANTED}, or the name of one on the hub"
            )
        self._processor: Any = None
        self._kind = ""

    def check(self) -> None:
        """Read the prompts; see `RewardModel.check`."""
        self._prompts()

    def load(self, device: str) -> torch.nn.Module:
        """Load the model with its heads, and the processor; see `RewardModel.load`."""
        import transformers

        from agentfly.evaluators.learned.reward_heads import load_reward_network

        self._prompts()
        chosen = self.settings
        base = find_model(chosen.base or chosen.model, wanted=_WANTED)
        with loading(chosen.model, _WANTED):
            config = transformers.AutoConfig.from_pretrained(base)
            self._kind = config.model_type
            self._processor = transformers.AutoProcessor.from_pretrained(base, padding_side="right")
            self._processor.tokenizer.add_special_tokens({"additional_special_tokens": [TOKEN]})
            dtype = resolve_dtype(chosen.dtype, device)
            model = load_reward_network(chosen.model, config, dtype, chosen.revision)
        return model.to(device).eval()

    def score(self, model: torch.nn.Module, samples: Sequence[EditSample]) -> Sequence[Score | EvaluatorError]:
        """Score a batch by both heads; see `RewardModel.score`."""
        import torch

        shown = [self._images(sample) for sample in samples]
        sound = [(sample, images) for sample, images in zip(samples, shown, strict=True) if isinstance(images, tuple)]
        found = list[Score | EvaluatorError]()
        if sound:
            heads = []
            with torch.inference_mode():
                for place, prompt in enumerate(self._prompts().values()):
                    texts = [
                        prompt.replace("{text_prompt}", without_special_tokens(one.instruction)) for one, _ in sound
                    ]
                    heads.append(self._rewards(model, texts, [images for _, images in sound], f"head_{place}"))
            found = [self._score(rewards) for rewards in zip(*heads, strict=True)]
        scored = iter(found)
        return [next(scored) if isinstance(images, tuple) else images for images in shown]

    def _score(self, rewards: Sequence[float]) -> Score | EvaluatorError:
        if not all(map(math.isfinite, rewards)):
            return EvaluatorError("EditReward gave a reward that is no number: try dtype=float32")
        aspects = {name: self._scaled(reward) for name, reward in zip(_PROMPTS, rewards, strict=True)}
        mean = sum(rewards) / len(rewards)
        return Score(100.0 * self._scaled(mean), f"The model's reward is {mean:.3f}.", aspects)

    def _scaled(self, reward: float) -> float:
        # The exponent is limited, as a float has no number for that of a large one.
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, (reward - self.settings.middle) / self.settings.width))))

    def _rewards(
        self, model: Any, texts: Sequence[str], images: Sequence[tuple[Image.Image, Image.Image]], head: str
    ) -> list[float]:
        """Return the mean reward of one head for each text with its images."""
        turns = [
            self._processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": text}]}],
                tokenize=False,
                add_generation_prompt=True,
            )
            for text in texts
        ]
        inputs = self._processor(
            text=turns, images=[list(pair) for pair in images], padding=True, return_tensors="pt", do_resize=False
        ).to(model.device)
        token = self._processor.tokenizer.convert_tokens_to_ids(TOKEN)
        found = model.rewards(inputs, head, token, plain_positions=self._kind == "qwen2_5_vl")
        return [float(reward) for reward in found[:, 0].double().cpu()]

    def _images(self, sample: EditSample) -> tuple[Image.Image, Image.Image] | EvaluatorError:
        """Return source and result in the size at which the model sees them, a whole number of its patches."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        patch = self._processor.image_processor.patch_size * self._processor.image_processor.merge_size
        before, after = paired(sample, self.settings.max_pixels)
        least, most = (_AREA, _AREA) if self._kind == "qwen2_5_vl" else (patch * patch, self.settings.max_pixels)
        try:
            height, width = smart_resize(before.height, before.width, patch, least, most)
        except ValueError as fault:
            return EvaluatorError(f"EditReward cannot look at an image of {before.width} x {before.height}: {fault}")
        one, two = (image.resize((width, height), Image.Resampling.BICUBIC) for image in (before, after))
        return one, two

    def _prompts(self) -> dict[str, str]:
        """Return the prompts by aspect, each with the special token."""
        folder = self.settings.prompts
        if folder is None:
            raise ConfigError(f"EditReward needs the prompts that it was trained with: {_REMEDY}")
        texts = read_texts(folder / "prompts.py", tuple(_PROMPTS.values()), _REMEDY)
        ending = read_texts(folder / "data_collator_qwen_edit.py", (_ENDING,), _REMEDY)[_ENDING]
        if ending.count(TOKEN) != 1:
            raise ConfigError(f"{_ENDING} in {folder} does not have the token {TOKEN} once: {_REMEDY}")
        return {aspect: texts[name] + ending for aspect, name in _PROMPTS.items()}


class EditRewardEvaluator(LearnedEvaluator):
    """`EditRewardModel` as an evaluator.

    Args:
        settings: of the model.
    """

    def __init__(self, settings: EditRewardSettings) -> None:
        super().__init__(EditRewardModel(settings))
