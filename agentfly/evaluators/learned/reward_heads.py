"""A vision-language model of transformers with the two heads of EditReward, read from its checkpoint.

The heads are multilayer perceptrons in float32, `rm_heads.head_0` and `rm_heads.head_1` of the checkpoint, whose sizes
its tensors tell. A weight that the checkpoint lacks is an error: a head that is left as it was initialised would give
rewards all the same. This module imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agentfly.errors import ConfigError
from agentfly.model_source import is_local

HEADS = ("head_0", "head_1")
CLASSES: Mapping[str, str] = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
_PREFIX = "rm_heads."
_LINEAR = re.compile(r"(?P<place>\d+)\.weight")
_EMBEDDINGS = "embed_tokens.weight"
_FILES = ["*.json", "*.safetensors", "*.pth"]
State = dict[str, torch.Tensor]


class RewardNetwork(nn.Module):
    """The model and its heads.

    Args:
        model: of transformers, with its language head, which is not used.
        heads: by name; each maps hidden states (B, D) to outputs (B, 2), the mean of a reward and the logarithm of its
            spread.
    """

    def __init__(self, model: Any, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.model, self.heads = model, heads

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        found: torch.device = self.model.device
        return found

    def rewards(self, inputs: Mapping[str, Any], head: str, token: int, *, plain_positions: bool) -> torch.Tensor:
        """Return the outputs (B, 2) of a head for a batch.

        Args:
            inputs: of the processor: input_ids (B, L), attention_mask (B, L), pixel_values, image_grid_thw.
            head: its name.
            token: id of the special token, which stands once in each text.
            plain_positions: count tokens for positions instead of M-RoPE's height and width. The Qwen2.5-VL variants
                were trained so: EditReward passes embeddings without ids, from which transformers counts.

        Raises:
            ConfigError: a text does not have the token once.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        more: dict[str, torch.Tensor] = {}
        if plain_positions:
            positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 1)
            more["position_ids"] = positions[None].expand(3, -1, -1)
        hidden = self.model.model(**inputs, **more, use_cache=False).last_hidden_state
        found = ids == token
        if not bool((found.sum(1) == 1).all()):
            raise ConfigError("a prompt of EditReward does not have its special token once")
        outputs: torch.Tensor = self.heads[head](hidden[found].float())
        return outputs


def load_reward_network(source: str, config: Any, dtype: torch.dtype, revision: str | None = None) -> RewardNetwork:
    """Return the model of a checkpoint with its heads, on the CPU.

    Args:
        source: folder, or name on the hub, with `model.safetensors` (also in parts) or `model.pth`.
        config: of the model that the checkpoint was trained from; its vocabulary takes the checkpoint's size.
        dtype: of the model; the heads stay in float32.
        revision: on the hub.

    Raises:
        ConfigError: the checkpoint cannot be read, or lacks weights.
    """
    import transformers

    if config.model_type not in CLASSES:
        raise ConfigError(f"{source!r} goes with a {config.model_type} model: EditReward is a Qwen2.5-VL or a Qwen3-VL")
    state = _read_state(_folder(source, revision))
    own = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(_PREFIX)}
    heads = nn.ModuleDict({name: _head(own, name, source) for name in HEADS})
    heads.load_state_dict({name: tensor.float() for name, tensor in own.items()})
    # The special token was added to the vocabulary, and the embeddings were cut to its size.
    sizes = [tensor.shape[0] for name, tensor in rest.items() if name.endswith(_EMBEDDINGS)]
    if sizes:
        config.get_text_config().vocab_size = sizes[0]
    model, found = getattr(transformers, CLASSES[config.model_type]).from_pretrained(
        None, config=config, state_dict=rest, dtype=dtype, output_loading_info=True
    )
    # The language head is not used, and a checkpoint may leave it out.
    missing = [name for name in found["missing_keys"] if "lm_head" not in name]
    if missing or found["mismatched_keys"]:
        wrong = sorted(map(str, [*missing, *found["mismatched_keys"]]))
        raise ConfigError(
            f"{source!r} lacks {len(wrong)} weights of the model, such as {wrong[0]}: it is no EditReward"
        )
    return RewardNetwork(model, heads)


def _folder(source: str, revision: str | None) -> Path:
    if is_local(source):
        return Path(source).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=_FILES))
    except (OSError, HFValidationError) as fault:
        raise ConfigError(f"{source!r} cannot be fetched from the hub: {fault}") from fault


def _read_state(folder: Path) -> State:
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    # A name in an index must not lead out of the folder.
    files = [folder / Path(str(name)).name for name in names]
    if all(file.is_file() for file in files):
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    if (folder / "model.pth").is_file():
        state = torch.load(folder / "model.pth", map_location="cpu", weights_only=True)
        return dict(state.get("model", state))
    raise ConfigError(
        f"{folder} has no model.safetensors and no model.pth: give the folder of an EditReward checkpoint"
    )


def _head(own: State, name: str, source: str) -> nn.Sequential:
    """Return a head whose layers have the sizes of the checkpoint; between linear layers there is a ReLU."""
    weights = {key.removeprefix(f"{name}."): tensor for key, tensor in own.items() if key.startswith(f"{name}.")}
    places = sorted(int(match["place"]) for key in weights if (match := _LINEAR.fullmatch(key)))
    if not places:
        raise ConfigError(f"{source!r} has no {_PREFIX}{name}: it is no checkpoint of EditReward with two heads")
    layers: list[nn.Module] = [nn.Identity() for _ in range(places[-1] + 1)]
    for place in places:
        outputs, inputs = weights[f"{place}.weight"].shape
        layers[place] = nn.Linear(inputs, outputs, bias=f"{place}.bias" in weights)
        if place != places[-1]:
            layers[place + 1] = nn.ReLU()  # the layer after it, if any, is the dropout of training
    return nn.Sequential(*layers)
