"""vLLM's worker on a CPU, with weights that stay updatable during training."""

from __future__ import annotations

import torch
import vllm._custom_ops as custom_ops
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension, with both kinds of packed weights off.

    vLLM's CPU backend packs each linear weight into a oneDNN handle and leaves an empty `layer.weight` behind
    (vllm/model_executor/layers/utils.py:297): a later weight update finds no parameter, and the trainer waits for
    ever. Without the flag vLLM falls back to `torch.nn.functional.linear` on the live parameter.

    Where the processor has AMX tiles, vLLM also packs the weights of convolutions, as Qwen3.5 has them, into another
    shape (vllm/model_executor/layers/utils.py:240), into which none can be loaded. Without tiles it uses them as they
    are.

    Both switches are private; tests assert that they still work.
    """

    def __new__(cls, **kwargs: object) -> CPUWorkerExtension:
        custom_ops._supports_onednn = False
        torch.cpu._is_amx_tile_supported = lambda: False
        return super().__new__(cls, **kwargs)
