"""A trial on the console: each chain turn by turn with its budgets and its reward, then the metrics of the step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentfly.agents import ToolRecord, Trajectory, Turn
from agentfly.agents.display.console import image_protocol, show_image
from agentfly.errors import ImageError, printable, shortened
from agentfly.images import ImageStore, ImageView
from agentfly.messages import Message
from agentfly.training.recipe.settings import TrainSettings
from agentfly.training.trial.request import TrialResult, TriedChain
from agentfly.training.trial.run import Trial
from agentfly.training.verl.chain_faults import in_words
from agentfly.training.verl.messages import FinishedChain

_MOST_ARGUMENTS = 300  # characters
_FULL = 0.9  # share of a budget from which it is shown as nearly used up


class TrialConsole:
    """Shows a trial as it goes on.

    Args:
        console: where to print.
        trial: what is shown.
    """

    def __init__(self, console: Console, trial: Trial) -> None:
        self._console, self._trial = console, trial
        self._protocol = image_protocol(console, os.environ)

    def head(self) -> None:
        """Show policy, agent and tools before the first chain."""
        trial, context = self._trial, self._trial.context
        tools = [tool.name for tool in context.agent.tools_for(ImageView(ImageStore()))]
        self._pair("recipe", str(trial.request.recipe))
        self._pair("policy", trial.policy.label)
        self._pair("agent", f"{context.settings.spec().label}, tools {', '.join(tools)}")
        self._pair("reward", _reward_name(context.settings))
        if trial.policy.codec is None:
            why = "the endpoint works on messages" if trial.policy.shared else "the recipe's model is no folder here"
            self._line(f"tokens are not exact, and their limits are not applied: {why}", "yellow")
        elif trial.policy.shared is not None:
            self._line("vLLM starts", "dim")

    def chain(self, tried: TriedChain) -> None:
        """Show one chain."""
        trial, task = self._trial, tried.task
        sample = f" · chain {tried.sample + 1} of {trial.request.samples}" if trial.request.samples > 1 else ""
        self._console.print()
        self._line(f"── {task.id} · {task.task_type}{sample} · {shortened(task.instruction, 200)}", "bold")
        if tried.chain is not None:
            trajectory = tried.chain.trajectory
            for number, (turn, seen) in enumerate(zip(trajectory.turns, observations(trajectory), strict=True)):
                self._turn(number, turn, seen, tried.chain)
            self._end(tried, trajectory)
        if tried.lost is not None:
            self._line(f"lost: {tried.lost.reason.replace('_', ' ')}: {tried.lost.message}", "red")

    def result(self, result: TrialResult) -> None:
        """Show the metrics of the step, and what training would do with it."""
        self._console.print()
        self._line("metrics of a training step with these chains", "bold")
        self._console.print(self._metrics(result))
        tasks = {chain.report.group: chain.task.id for chain in result.chains if chain.report is not None}
        for group in result.groups if self._trial.request.samples > 1 else ():
            flat = ": no variance, so that GRPO learns nothing from it" if group.zero_variance else ""
            text = f"{tasks[str(group.group)]}: {group.size} chains, reward {group.mean:.3f} ± {group.std:.3f}{flat}"
            self._line(text, "yellow" if flat else "")
        for breach in result.breaches:
            then = "stops the run" if breach.action == "stop" else "warns"
            steps = "at once" if breach.patience == 1 else f"after {breach.patience} such steps"
            self._line(f"health: {breach.metric} is {breach.words}: training {then} {steps}", "yellow")
        if result.unfit is not None:
            self._line(f"training would not learn from such a step: {result.unfit}", "red")
        elif result.lost:
            self._line(f"lost {len(result.lost)} of {len(result.chains)} chains: {in_words(result.lost)}", "red")
        self._line(f"{len(result.chains)} chains in {result.seconds:.1f} s", "bold")

    def _turn(self, number: int, turn: Turn, seen: Sequence[Message], chain: FinishedChain) -> None:
        exact = chain.trajectory.tokens is not None
        sampled = turn.end - turn.start if exact else turn.completion_tokens
        counted = f"{turn.prompt_tokens} + {sampled} tokens, " if turn.prompt_tokens or sampled else ""
        cut = ", cut by a limit" if turn.finish_reason == "length" else ""
        self._line(f"turn {number + 1}: {counted}{turn.seconds:.2f} s{cut}", "dim")
        self._line(turn.text)
        for record, message in zip_longest(turn.tools, seen):
            if record is not None:
                self._call(record)
            self._observation(record, message, chain)

    def _call(self, record: ToolRecord) -> None:
        given = ", ".join(f"{name}={value!r}" for name, value in record.arguments.items())
        name = record.name or "a call that cannot be read"
        engine = f", {record.engine}" if record.engine else ""
        called = f"→ {shortened(name)}({shortened(given, _MOST_ARGUMENTS)})"
        self._line(called, "cyan", f" {record.seconds:.3f} s{engine}")

    def _observation(self, record: ToolRecord | None, message: Message | None, chain: FinishedChain) -> None:
        style = "red" if record is not None and record.error is not None else "green"
        if message is not None:
            self._line(f"← {message.text}", style)
            self._images(message.images, chain.store)
        elif record is not None:
            # The chain ended here: the policy does not see what came back.
            told = record.error or chain.trajectory.answer or " ".join(record.images) or "nothing"
            self._line(f"← {told}", style)
            self._images(record.images, chain.store)

    def _images(self, handles: Sequence[str], store: ImageStore) -> None:
        if self._protocol is None:
            return
        for handle in handles:
            try:
                image: Image.Image = store.get(handle)
            except ImageError:
                continue
            show_image(self._console, image, self._protocol)

    def _end(self, tried: TriedChain, trajectory: Trajectory) -> None:
        tools = sum(record.seconds for record in trajectory.tool_records)
        reason = trajectory.stop_reason.value if trajectory.stop_reason else "unknown"
        error = f": {trajectory.error}" if trajectory.error else ""
        self._line(f"end: {reason}{error} · {trajectory.seconds:.2f} s, {tools:.2f} s in tools", "dim")
        budgets = Text("budget: ", "dim")
        for place, (name, used, limit) in enumerate(self._budgets(trajectory)):
            full = used > limit or (used >= _FULL * limit and name not in ("turns",))
            budgets.append(f"{', ' if place else ''}{name} {used} of {limit}", "yellow" if full else "dim")
        self._console.print(budgets, soft_wrap=True)
        prompt, longest = len(trajectory.tokens.prompt_ids) if trajectory.tokens else 0, self._trial.prompt_length
        if prompt > longest:
            self._line(
                f"agentfly train does not start: data.max_prompt_length={longest}, this prompt has {prompt}", "red"
            )
        if trajectory.reward is not None:
            terms = " ".join(f"{value:+.3f} {name}" for name, value in trajectory.reward_parts.items())
            ranked = " by rank in its group" if tried.report is not None and tried.report.relative else ""
            score = "" if trajectory.score is None else f", score {trajectory.score:.1f}{ranked}"
            equals = f" = {terms}" if terms else ""
            aspects = " ".join(f"{name} {value:.3g}" for name, value in trajectory.aspects.items())
            self._line(
                f"reward {trajectory.reward:.3f}{equals}{score}", "bold", f" {aspects} · {tried.scoring_seconds:.2f} s"
            )

    def _budgets(self, trajectory: Trajectory) -> Iterator[tuple[str, int, int]]:
        """Yield name, use and limit of each budget of a chain."""
        limits, tokens = self._trial.context.limits, trajectory.tokens
        yield "turns", len(trajectory.turns), limits.max_turns
        yield "calls", len(trajectory.tool_records), limits.max_tool_calls
        yield "images", len(trajectory.images), limits.max_images
        if tokens is not None:
            yield "prompt tokens", len(tokens.prompt_ids), self._trial.prompt_length
            yield "response tokens", len(tokens.response_ids), limits.max_response_tokens
            longest = max((turn.end - turn.start for turn in trajectory.turns), default=0)
            yield "tokens a turn", longest, limits.max_tokens_per_turn

    def _metrics(self, result: TrialResult) -> Table:
        table = Table("metric", "value")
        table.columns[1].justify = "right"
        broken = {f"health/{breach.metric}" for breach in result.breaches}
        alone = self._trial.request.samples == 1
        for name, value in sorted(result.metrics.items()):
            # One chain a task is a group of one, which has no variance whatever the policy does.
            if not (alone and name.startswith("reward/group/")):
                table.add_row(Text(printable(name)), Text(f"{value:.4g}"), style="yellow" if name in broken else "")
        return table

    def _pair(self, name: str, value: str) -> None:
        self._line(f"{name:<8} {value}")

    def _line(self, text: str, style: str = "", aside: str = "") -> None:
        shown = Text.assemble((printable(text), style), (printable(aside), "dim"))
        self._console.print(shown, soft_wrap=True)


def observations(trajectory: Trajectory) -> list[list[Message]]:
    """Return the messages of tools after each turn; a chain that ended there shows none after its last."""
    spoken = [place for place, message in enumerate(trajectory.messages) if message.role == "assistant"]
    places = spoken[len(spoken) - len(trajectory.turns) :]
    return [list(trajectory.messages[a + 1 : b]) for a, b in pairwise([*places, len(trajectory.messages)])]


def _reward_name(settings: TrainSettings) -> str:
    named = settings.reward_function or settings.evaluator
    return named if isinstance(named, str) else str(dict(named))
