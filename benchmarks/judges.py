"""Judges that rate and judges that rank, with known noise: right advantages, requests, learning.

    python benchmarks/judges.py [--tasks 40] [--groups 200] [--steps 40] [--seeds 0,1,2,3,4] [--json FILE]

Chains are real: for each sticker task, ten ways to act are run with the agent's tools and scored by the `reference`
evaluator, which is the truth. The judge is simulated (`benchmarks/simulated_judge.py`). Its rankings are aggregated by
the functions of the listwise judge, in as many orders as it asks for.

**Advantages.** Groups of eight ways, drawn at random for a task. Both truth and judge give each chain GRPO's advantage
(arXiv:2402.03300), (r - mean) / (std + 1e-6) over the group. Sign agreement is the share of chains with an advantage by
the truth that get one of the same sign from the judge; rank correlation is Spearman's, where both sides have a spread.
Intervals are 95 % bootstraps over groups.

**Learning.** A cheap substitute for training a policy, and no more than that: a softmax over the ten ways for each task
type, one row of logits a type, that is updated by REINFORCE with the advantages of each judge. It is evaluated exactly
on held-out tasks: expected score, and share of scores of 80 or more. Intervals are Student's t over seeds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

import numpy as np  # noqa: E402
from learning_results import interval  # noqa: E402
from rich.console import Console  # noqa: E402
from simulated_judge import JudgeModel, Numbers, digest_of, repainted_share  # noqa: E402

from agentfly.agents import AgentSettings, ImageEditingAgent, Rollout, RolloutLimits, task_conversation  # noqa: E402
from agentfly.agents.llm_backends import ScriptedBackend  # noqa: E402
from agentfly.datasets import FAMILIES, EditTask, StickerWorld  # noqa: E402
from agentfly.datasets.photos import Split  # noqa: E402
from agentfly.evaluators import EditSample, ReferenceEvaluator  # noqa: E402
from agentfly.evaluators.bootstrap import SUCCESS, estimate  # noqa: E402
from agentfly.evaluators.judge.ranking import Ranked, beaten, orders  # noqa: E402
from agentfly.images import ImageStore, load_image, load_mask  # noqa: E402

GROUP, RATE = 8, 0.3
Call = tuple[str, Mapping[str, object]]
Scorer = Callable[["Outcomes", np.ndarray, Numbers, np.random.Generator], tuple[Numbers, int]]


@dataclass(frozen=True)
class Outcomes:
    """The results of all ways to act on one task.

    Attributes:
        family: task type.
        truth: score of each way, 0 to 100.
        repainted: share of each that was changed outside the mask.
        image: number of each way's image; equal images have one number, the source has 0.
        calls: of tools, by each way; the answer is none.
    """

    family: str
    truth: Numbers
    repainted: Numbers
    image: np.ndarray
    calls: np.ndarray


def ways(task: EditTask) -> dict[str, list[Call]]:
    """Return the ways to act on a task: calls of tools, each on the image of the one before."""
    steps, others = task.metadata["steps"], [s for s in task.metadata["stickers"] if not s["is_target"]]
    # Where all stickers are to be edited, there is no other one, and the call fails.
    other = f"{others[0]['colour']} {others[0]['shape']}" if others else "grey star"

    def paint(what: str, new: str = "", grown: int = 4) -> Call:
        return "auto_inpaint_image", {
            "detect_prompt": what,
            "prompt": new,
            "box_threshold": 0.6,
            "auto_mask_dilate": grown,
        }

    def edit(words: str) -> Call:
        return "qwen_edit_image", {"prompt": words}

    right = [paint(step["detect"], step["new"]) for step in steps]
    return {
        "right": right,
        "right, but tight": [paint(step["detect"], step["new"], 0) for step in steps],
        "right, but wide": [paint(step["detect"], step["new"], 10) for step in steps],
        "the first step only": right[:1],
        "another colour": [paint(step["detect"], "black square" if not step["new"] else "") for step in steps],
        "another sticker": [paint(other)],
        "right and another sticker": [*right, paint(other)],
        "right and brighter": [*right, edit("brighten")],
        "brighter": [edit("brighten")],
        "nothing": [],
    }


WAYS = tuple(ways(StickerWorld().task(0, "train", "named")))


async def outcomes(task: EditTask) -> Outcomes:
    """Run all ways to act on a task and score them."""
    source, target, mask = load_image(task.images[0]), load_image(task.target), load_mask(task.mask)  # type: ignore[arg-type]
    numbers, truth, repainted, image = {digest_of(source): 0}, [], [], []
    acts = ways(task).values()
    for calls in acts:
        result = await _run(task, calls) or source
        score = await ReferenceEvaluator().evaluate(EditSample(task.instruction, source, result, target, mask))
        truth.append(score.value)
        repainted.append(repainted_share(source, result, mask))
        image.append(numbers.setdefault(digest_of(result), len(numbers)))
    made = np.array([len(calls) for calls in acts])
    return Outcomes(task.task_type, np.array(truth), np.array(repainted), np.array(image), made)


async def _run(task: EditTask, calls: Sequence[Call]):  # type: ignore[no-untyped-def]
    texts = []
    for number, (name, arguments) in enumerate(calls, 1):
        texts.append(_call(name, image_id=f"img_{number}", **arguments))
    texts.append(_call("give_answer", final_image_id=f"img_{len(calls) + 1}"))
    backend, store, limits = ScriptedBackend(texts), ImageStore(), RolloutLimits(max_tokens_per_turn=200)
    agent = ImageEditingAgent("scripted", backend=backend, store=store, settings=AgentSettings(limits=limits))
    trajectory = await Rollout(backend, limits).run(agent.chain(task_conversation(task), "group", 0))
    return store.get(trajectory.final_image) if trajectory.final_image else None


def _call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def collect(count: int, split: Split) -> list[Outcomes]:
    """Return the outcomes of so many tasks of a split, the task types in turn."""
    world = StickerWorld()
    tasks = [world.task(index, split, FAMILIES[index % len(FAMILIES)], seed=7) for index in range(count)]

    async def all_of_them() -> list[Outcomes]:
        return [await outcomes(task) for task in tasks]

    return asyncio.run(all_of_them())


# Scorers take a task, the ways that were drawn, the judge's lasting opinion of all ways, and the noise of the requests.
# They return the rewards of the ways drawn, and the number of requests. An unchanged image is worth 0 and is not asked
# about.


def truth(task: Outcomes, drawn: np.ndarray, opinion: Numbers, rng: np.random.Generator) -> tuple[Numbers, int]:
    """Score by the truth."""
    return task.truth[drawn], 0


def pointwise(model: JudgeModel, passes: int) -> Scorer:
    """Score by the mean of so many ratings; each chain is rated on its own, equal images alike (temperature 0)."""

    def score(task: Outcomes, drawn: np.ndarray, opinion: Numbers, rng: np.random.Generator) -> tuple[Numbers, int]:
        images, first = np.unique(task.image[drawn], return_index=True)
        ratings = np.mean([model.rate(opinion[drawn[first]], rng) for _ in range(passes)], axis=0)
        ratings[images == 0] = 0.0
        changed = int((task.image[drawn] != 0).sum())
        return ratings[np.searchsorted(images, task.image[drawn])], passes * changed

    return score


def listwise(model: JudgeModel, count: int) -> Scorer:
    """Score by rankings in so many orders, as `agentfly.evaluators.judge.listwise` does."""

    def score(task: Outcomes, drawn: np.ndarray, opinion: Numbers, rng: np.random.Generator) -> tuple[Numbers, int]:
        images, first = np.unique(task.image[drawn], return_index=True)
        asked, unchanged = first[images != 0], bool((images == 0).any())
        seen = opinion[drawn[asked]]
        if len(seen) < 2:
            single, requests = pointwise(model, 1)(task, drawn, opinion, rng)
            return single, min(requests, len(seen))
        passes, requests = [], 0
        for blocks in orders(len(seen), count, GROUP, random.Random(int(rng.integers(2**32)))):
            answers = []
            for block in blocks:
                answers.append((block, Ranked(model.rank(seen[block], rng), ("",) * len(block))))
            passes.append(answers)
            requests += len(blocks)
        others = len(seen) - 1 + unchanged
        shares = ((len(seen) - 1) * beaten(len(seen), passes).mean(axis=0) + unchanged) / others
        found = np.zeros(len(images))
        found[images != 0] = 100.0 * shares
        return found[np.searchsorted(images, task.image[drawn])], requests

    return score


def arms(model: JudgeModel) -> dict[str, Scorer]:
    """Return the ways to score that are compared."""
    return {
        "pointwise": pointwise(model, 1),
        "pointwise, 2 passes": pointwise(model, 2),
        "listwise, 1 order": listwise(model, 1),
        "listwise, 2 orders": listwise(model, 2),
        "listwise, 4 orders": listwise(model, 4),
    }


def advantages(rewards: Numbers) -> Numbers:
    """Return GRPO's advantages of a group."""
    spread = rewards.std(ddof=1)
    return np.zeros_like(rewards) if spread < 1e-6 else (rewards - rewards.mean()) / (spread + 1e-6)


def correlation(first: Numbers, second: Numbers) -> float:
    """Return Spearman's rank correlation; NaN where one side is flat."""
    ranks = [np.unique(v, return_inverse=True)[1] for v in (first, second)]
    mean = [np.array([(r < x).sum() + ((r == x).sum() - 1) / 2 for x in r]) for r in ranks]
    if np.ptp(mean[0]) == 0 or np.ptp(mean[1]) == 0:
        return float("nan")
    return float(np.corrcoef(mean[0], mean[1])[0, 1])


def accuracy(tasks: Sequence[Outcomes], model: JudgeModel, groups: int, seed: int) -> dict[str, dict[str, object]]:
    """Return sign agreement, rank correlation and requests of each arm, over groups drawn at random.

    Args:
        tasks: with the outcomes of all ways.
        model: of the judge.
        groups: number of groups; the same for all arms.
        seed: of groups and noise.
    """
    found: dict[str, dict[str, object]] = {}
    for name, scorer in arms(model).items():
        rng, signs, ranks, requests = np.random.default_rng(seed), list[float](), list[float](), list[int]()
        for number in range(groups):
            task = tasks[number % len(tasks)]
            drawn = rng.integers(0, len(WAYS), GROUP)
            opinion = _opinion(task, model, np.random.default_rng([seed, number % len(tasks)]))
            noise = np.random.default_rng([seed, number, 1])
            rewards, asked = scorer(task, drawn, opinion, noise)
            wanted, given = advantages(task.truth[drawn]), advantages(rewards)
            requests.append(asked)
            if np.abs(wanted).max() > 0:
                sure = np.abs(wanted) > 1e-9
                signs.append(float((np.sign(given) == np.sign(wanted))[sure].mean()))
                ranks.append(correlation(wanted, given))
        known = [value for value in ranks if not np.isnan(value)]
        found[name] = {
            "sign": estimate(signs).to_dict(),
            "rank": estimate(known).to_dict(),
            "requests": round(float(np.mean(requests)), 2),
        }
    return found


def _opinion(task: Outcomes, model: JudgeModel, rng: np.random.Generator) -> Numbers:
    """Return the lasting opinion of each way; equal images have one."""
    _, first, back = np.unique(task.image, return_index=True, return_inverse=True)
    return model.opinion(task.truth[first], task.repainted[first], rng)[back]


def learn(
    train: Sequence[Outcomes], held_out: Sequence[Outcomes], scorer: Scorer, model: JudgeModel, steps: int, seed: int
) -> tuple[float, float]:
    """Train the softmax policy with the advantages of one judge, and return held-out score and success, both 0 to 100.

    Args:
        train, held_out: outcomes of tasks.
        scorer: gives the rewards.
        model: of the judge; its opinions of the training tasks last through the training.
        steps: of eight tasks with eight chains each.
        seed: of tasks, chains and noise.
    """
    rng = np.random.default_rng(seed)
    opinions = [_opinion(task, model, np.random.default_rng([seed, n])) for n, task in enumerate(train)]
    logits = {family: np.zeros(len(WAYS)) for family in FAMILIES}
    for _ in range(steps):
        gradient = {family: np.zeros(len(WAYS)) for family in FAMILIES}
        for number in rng.integers(0, len(train), 8):
            task = train[number]
            policy = softmax(logits[task.family])
            drawn = rng.choice(len(WAYS), GROUP, p=policy)
            rewards, _ = scorer(task, drawn, opinions[number], rng)
            given = advantages(rewards)
            won = np.bincount(drawn, weights=given, minlength=len(WAYS))
            gradient[task.family] += (won - given.sum() * policy) / GROUP
        for family in FAMILIES:
            logits[family] += RATE * gradient[family]
    policies = [softmax(logits[task.family]) for task in held_out]
    score = np.mean([policy @ task.truth for policy, task in zip(policies, held_out, strict=True)])
    success = np.mean([policy @ (task.truth >= SUCCESS) for policy, task in zip(policies, held_out, strict=True)])
    return float(score), 100.0 * float(success)


def softmax(logits: Numbers) -> Numbers:
    """Return the probabilities of a row of logits."""
    raised: Numbers = np.exp(logits - logits.max())
    return np.asarray(raised / raised.sum())


MODELS: Mapping[str, JudgeModel] = {
    "as in training": JudgeModel(),
    "little noise": JudgeModel(error=5, strictness=5),
    "much noise": JudgeModel(error=30, strictness=30),
    "no strictness": JudgeModel(strictness=0),
    "lists double the error": JudgeModel(crowding=2),
    "strong place bias": JudgeModel(places=60),
    "likes repainting": JudgeModel(liking=60),
}


LEARNED = ("as in training", "much noise", "strong place bias", "likes repainting")


def tables(found: Mapping[str, Mapping[str, Mapping[str, object]]], learned: Mapping[str, Mapping[str, object]]) -> str:
    """Return the figures as Markdown."""
    lines = ["| judge | arm | requests a group | sign agreement | rank correlation |", "|---|---|---|---|---|"]
    for name, by_arm in found.items():
        for arm, figures in by_arm.items():
            cells = [_range(figures["sign"], 100, 0), _range(figures["rank"], 1, 2)]
            lines.append(f"| {name} | {arm} | {figures['requests']} | {' | '.join(cells)} |")
    lines += ["", "| judge | arm | held-out score | held-out success, % |", "|---|---|---|---|"]
    for name, by_name in learned.items():
        lines += [f"| {name} | {arm} | {figures['score']} | {figures['success']} |" for arm, figures in by_name.items()]  # type: ignore[index]
    return "\n".join(lines)


def _range(figures: object, factor: float, digits: int) -> str:
    assert isinstance(figures, dict)
    mean, low, high = (f"{factor * figures[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def main() -> None:
    """Collect chains, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=40, help="training tasks, and half as many held-out ones")
    parser.add_argument("--groups", type=int, default=200, help="groups of the advantages")
    parser.add_argument("--steps", type=int, default=40, help="training steps of the softmax policy; 0 for none")
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, help="file for all figures")
    given = parser.parse_args()
    console = Console()
    train, held_out = collect(given.tasks, "train"), collect(max(1, given.tasks // 2), "heldout")
    found = {name: accuracy(train, model, given.groups, seed=0) for name, model in MODELS.items()}
    learned: dict[str, dict[str, dict[str, str]]] = {}
    for name, model in MODELS.items() if given.steps else ():
        for arm, scorer in {"truth": truth, **arms(model)}.items() if name in LEARNED else ():
            if arm in ("pointwise, 2 passes", "listwise, 4 orders"):
                continue  # of interest for the price of the advantages alone
            runs = [learn(train, held_out, scorer, model, given.steps, seed) for seed in given.seeds]
            score, success = (str(interval(run[which] for run in runs)) for which in (0, 1))
            learned.setdefault(name, {})[arm] = {"score": score, "success": success}
    console.print(tables(found, learned), markup=False, highlight=False, soft_wrap=True)
    if given.json is not None:
        mean = {way: round(float(np.mean([task.truth[n] for task in train])), 1) for n, way in enumerate(WAYS)}
        models = {name: asdict(model) for name, model in MODELS.items()}
        data = {"ways": mean, "models": models, "advantages": found, "learning": learned}
        given.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
