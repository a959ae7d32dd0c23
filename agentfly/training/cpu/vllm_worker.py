"""vLLM's worker on a CPU, with weights that stay updatable during training."""

from __future__ import annotations

import vllm._custom_ops as custom_ops
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension, with oneDNN weight packing off.

    vLLM's CPU backend packs each linear weight into a oneDNN handle and leaves an empty `layer.weight` behind
    (vllm/model_executor/layers/utils.py:297): a later weight update finds no parameter, and the trainer waits for
    ever. Without the flag vLLM falls back to `torch.nn.functional.linear` on the live parameter. The flag is private;
    a test asserts that it still works.
    """

    def __new__(cls, **kwargs: object) -> CPUWorkerExtension:
        custom_ops._supports_onednn = False
        return super().__new__(cls, **kwargs)
