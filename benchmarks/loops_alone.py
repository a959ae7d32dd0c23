"""The agent loops by themselves: processor time of a chain on a server that answers at once.

    python benchmarks/loops_alone.py POLICY [--prompts 8] [--samples 8] [--rounds 3] [--json]

No Ray, no engine, no trainer: our loop and verl's own tool loop play the same chains of three turns with the same tool
calls (two edits, which hardly cost anything, and an answer), and make of each what the trainer takes: tokens, the
model's inputs of the images, positions. Processor time holds on a machine that does other work, too. Aim: 4 ms, where
verl's loop takes 23 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agentfly.datasets import EditTask, StickerWorld
from agentfly.images import ImageStore, ImageView
from agentfly.training.launch.subprocess_phase import ENVIRONMENT
from agentfly.training.recipe.compose import CONFIG_DIR, compose, to_override

TURNS = (
    '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_1", "prompt": "brighten"}}</tool_call>',
    '<tool_call>{"name": "qwen_edit_image", "arguments": {"image_id": "img_2", "prompt": "darken"}}</tool_call>',
    '<tool_call>{"name": "give_answer", "arguments": {"final_image_id": "img_3"}}</tool_call>',
)


@dataclass(frozen=True)
class Alone:
    """Both loops.

    Attributes:
        chains: of each round.
        agentfly_ms, verl_ms: median processor milliseconds of a chain.
        ratio: median over the rounds of ours over verl's.
        tokens: of a chain, equal for both.
    """

    chains: int
    agentfly_ms: float
    verl_ms: float
    ratio: float
    tokens: int


class Server:
    """Plays verl's rollout server: the same three turns for every chain."""

    def __init__(self, tokenizer: Any) -> None:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self._turns = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in TURNS]
        self._asked: Counter[str] = Counter()

    async def generate(self, *, request_id: str, **unused: Any) -> Any:
        """The next turn of a chain."""
        ids = self._turns[self._asked[request_id]]
        self._asked[request_id] += 1
        return SimpleNamespace(
            token_ids=list(ids),
            log_probs=[-0.5] * len(ids),
            stop_reason="completed",
            num_preempted=0,
            routed_experts=None,
            extra_fields={},
        )


Play = Callable[[EditTask, int, str], Awaitable[int]]


def our_loop(config: Any, processor: Any, server: Server) -> Play:
    """Chains of our loop, to the inputs of the trainer; each gives its number of tokens."""
    import torch

    from agentfly.agents import Rollout
    from agentfly.training.verl.agent_loop import VerlBackend, loop_context, output_of
    from agentfly.training.verl.loop_worker import AgentFlyLoopWorker
    from agentfly.training.verl.messages import ChainRequest, FinishedChain
    from agentfly.training.verl.parity import ImageInputs
    from agentfly.training.verl.run_agent import new_chain

    common = loop_context(config, processor)
    worker = _worker(AgentFlyLoopWorker, config, processor)
    worker._images = ImageInputs(common.codec)

    async def play(task: EditTask, number: int, name: str) -> int:
        backend = VerlBackend(server, common.codec, {})
        chain = new_chain(common, task, name, number)
        chain.session = f"{name}-{number}"
        trajectory = await Rollout(backend, common.limits, common.sampling).run(chain)
        request = ChainRequest({"index": number, "task_file": ""}, name)
        finished = FinishedChain(trajectory, chain.view.store, task, request, common.settings)
        output = output_of(finished, common.limits.max_response_tokens, backend.sample_fields())
        return _finish(worker, output, torch.tensor(output.prompt_ids + output.response_ids))

    return play


def verl_loop(config: Any, processor: Any, server: Server) -> Play:
    """Chains of verl's tool loop with the same tools, to the inputs of the trainer."""
    import torch
    import verl_side
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
    from verl.tools.schemas import OpenAIFunctionToolSchema
    from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from agentfly.images import load_image
    from agentfly.tools import ImageTools, Toolset

    schemas = Toolset.of(ImageTools(ImageView(ImageStore()), verl_side.engines())).schemas()
    # A tool prints its schema when it is made.
    tools = [_silently(verl_side.ImageTool, {}, OpenAIFunctionToolSchema.model_validate(s)) for s in schemas]
    worker = _worker(AgentLoopWorkerTQ.__ray_metadata__.modified_class, config, processor)

    async def play(task: EditTask, number: int, name: str) -> int:
        content = [
            {"type": "text", "text": "img_1: "},
            {"type": "image", "image": load_image(task.images[0])},
            {"type": "text", "text": f"\n{task.instruction}"},
        ]
        loop = ToolAgentLoop(
            trainer_config=DictConfigWrap(config),
            server_manager=server,
            tokenizer=processor.tokenizer,
            processor=processor,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(config.data),
            hf_model_type="qwen2_5_vl",
            tools=ToolListWrap(tools),
        )
        output = await loop.run({}, raw_prompt=[{"role": "user", "content": content}])
        return _finish(worker, output, torch.tensor(output.prompt_ids + output.response_ids))

    return play


def _silently(make: Callable[..., Any], *arguments: Any) -> Any:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return make(*arguments)


def _worker(kind: Any, config: Any, processor: Any) -> Any:
    """A worker without Ray and queue, for the two methods that make the trainer's inputs."""
    worker = kind.__new__(kind)
    worker.config, worker.processor, worker.tokenizer = config, processor, processor.tokenizer
    worker.mm_processor_kwargs = {}
    return worker


def _finish(worker: Any, output: Any, ids: Any) -> int:
    """Finish the output of a loop as verl's worker does before the trainer gets it; return the number of tokens."""
    import torch

    inputs = worker._compute_multi_modal_inputs(output, ids)
    images = len(output.multi_modal_data["images"])
    if not len(inputs["image_grid_thw"]) == images == len(TURNS):
        raise RuntimeError(f"a chain has {images} images, and not one a turn")
    worker._compute_position_ids(ids.unsqueeze(0), torch.ones_like(ids).unsqueeze(0), inputs)
    return len(ids)


async def processor_ms(play: Play, tasks: Sequence[EditTask], samples: int, name: str) -> tuple[float, set[int]]:
    """Processor milliseconds of a chain, all chains at the same time; and how long they were."""
    began = time.process_time()
    chains = [play(task, number, f"{name}-{place}") for place, task in enumerate(tasks) for number in range(samples)]
    tokens = set(await asyncio.gather(*chains))
    return (time.process_time() - began) * 1e3 / len(chains), tokens


async def compare(config: Any, processor: Any, tasks: Sequence[EditTask], samples: int, rounds: int) -> Alone:
    """Both loops in turn; the first round loads what is loaded once, and does not count."""
    server = Server(processor.tokenizer)
    plays = {"agentfly": our_loop(config, processor, server), "verl": verl_loop(config, processor, server)}
    took: dict[str, list[float]] = {name: [] for name in plays}
    lengths: dict[str, set[int]] = {}
    for number in range(rounds + 1):
        # As our worker does. A search for garbage in all that is loaded would fall into any round of either loop.
        gc.collect()
        gc.freeze()
        for name in sorted(plays, reverse=bool(number % 2)):
            ms, lengths[name] = await processor_ms(plays[name], tasks, samples, f"{name}-{number}")
            took[name].append(ms)
    if lengths["agentfly"] != lengths["verl"]:
        raise RuntimeError(f"the loops did not make the same chains, in tokens: {lengths}")
    ours, theirs = took["agentfly"][1:], took["verl"][1:]
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    chains = len(tasks) * samples
    return Alone(
        chains, statistics.median(ours), statistics.median(theirs), ratio, round(statistics.fmean(lengths["verl"]))
    )


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="Hugging Face folder, for its processor and template")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    given = parser.parse_args()
    os.environ.update({**ENVIRONMENT, "VERL_PLATFORM": "cpu"})
    from verl.utils import hf_processor

    world = StickerWorld()
    tasks = [world.task(number, "train", "named") for number in range(given.prompts)]
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "agentfly.model": given.policy.absolute(),
            "agentfly.out": folder,
            "agentfly.data.train": "stickers",
            "agentfly.system_prompt": "",
            # Room for any tokenizer.
            "agentfly.limits.max_tokens_per_turn": 512,
            "data.max_prompt_length": 2048,
            "data.max_response_length": 4096,
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 8192,
            "actor_rollout_ref.rollout.multi_turn.format": "hermes_until_answer",
        }
        config = compose(CONFIG_DIR / "stickers.yaml", [to_override(key, value) for key, value in values.items()])
        found = asyncio.run(compare(config, hf_processor(str(given.policy)), tasks, given.samples, given.rounds))
    if given.json:
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        return
    sys.stdout.write(
        f"{found.chains} chains of {found.tokens} tokens: agentfly {found.agentfly_ms:.1f}, verl's tool loop "
        f"{found.verl_ms:.1f} processor ms a chain; agentfly / verl {found.ratio:.2f}\n"
    )


if __name__ == "__main__":
    main()
