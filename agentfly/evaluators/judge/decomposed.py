"""A judge that answers checkable questions with yes or no, in place of rating the whole.

The questions are made of the instruction once, and kept with the task: all results of it, in all steps and processes,
are scored by the same ones. Decomposing the request is TIFA's idea (arXiv:2303.11897), the weighted mean of checked
criteria as a reward that of Rubrics as Rewards (arXiv:2507.17746).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from pydantic import Field

from agentfly.aio import Sleep, gather_or_cancel
from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators.base import EditSample, Score, check_ready
from agentfly.evaluators.judge.judge import VlmJudge, comparable, data_uri
from agentfly.evaluators.judge.questions import AnswerQuestions, Answers, Decompose, EditQuestion, read_questions
from agentfly.evaluators.judge.settings import JudgeSettings, JudgeUsage
from agentfly.evaluators.measured.detector_checked import DetectorCheckedEvaluator, read_checks
from agentfly.evaluators.rubrics import Rubric

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

_MOST_KNOWN = 10_000  # tasks whose questions a process remembers


class QuestionSettings(JudgeSettings):
    """Settings of the judge of questions.

    Attributes:
        most: questions of an instruction at most.
        cache: folder in which the questions of each task are kept; a training run has one of its own. None keeps them
            in the memory of the process.
    """

    most: int = Field(8, ge=1, le=20)
    cache: Path | None = None


class QuestionJudge(VlmJudge):
    """Scores by yes and no.

        score = 100 * sum of w_j p_j / sum of w_j

    over the questions j of the task, with w_j the weight of the question and p_j the judge's probability of yes, from
    the log-probs of its answer where the server gives them. Where a question has a check that the detector can make,
    p_j is the check's value and the judge is not asked. A result that equals the source, and a missing one, is worth 0
    without a question.

    The questions are those of `metadata["questions"]` where the task has them; otherwise the judge makes them of the
    instruction and the source, once for each task. The task's own `metadata["checks"]` become questions, too.

    Args:
        settings: of the judge.
        checks: makes the checks; None leaves all questions to the judge.
        rubric, client, sleep: see `VlmJudge`.
    """

    settings: QuestionSettings

    def __init__(
        self,
        settings: QuestionSettings,
        checks: DetectorCheckedEvaluator | None = None,
        rubric: Rubric | None = None,
        client: openai.AsyncOpenAI | None = None,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(settings, rubric, client, sleep=sleep)
        self._checks = checks
        self._known: dict[str, asyncio.Task[tuple[EditQuestion, ...]]] = {}

    async def check_ready(self) -> None:
        """Check judge and detector; see `AsksOthers.check_ready`."""
        await super().check_ready()
        if self._checks is not None:
            await check_ready(self._checks)

    async def check_sample(self, sample: EditSample) -> None:
        """Read the questions and checks of the task, if it has any; see `NeedsOfSamples.check_sample`."""
        if sample.metadata.get("questions"):
            read_questions(sample.metadata["questions"])
        if sample.metadata.get("checks"):
            read_checks(sample.metadata["checks"])

    async def questions(self, sample: EditSample, usage: JudgeUsage | None = None) -> tuple[EditQuestion, ...]:
        """Return the questions of a task, from its metadata, from the cache, or made of its instruction.

        Args:
            sample: of the task; its result does not matter.
            usage: the account that is charged; a new one when None.

        Raises:
            EvaluatorError: those of the metadata are wrong, or the judge made none.
            ConfigError: the endpoint refuses the key or the model, or the folder of the cache cannot be written.
        """
        if sample.metadata.get("questions"):
            found = read_questions(sample.metadata["questions"])
        else:
            found = await self._made(sample, JudgeUsage() if usage is None else usage)
        known = {json.dumps(dict(q.check), sort_keys=True) for q in found if q.check}
        own = [
            EditQuestion(ask=check.name, check=check.to_dict())
            for check in (read_checks(sample.metadata["checks"]) if sample.metadata.get("checks") else ())
        ]
        return (*found, *(q for q in own if json.dumps(dict(q.check or {}), sort_keys=True) not in known))

    async def _score(self, sample: EditSample, usage: JudgeUsage) -> Score:
        if sample.result is None:
            return Score(0.0, "There is no result.")
        before, after, changed = await asyncio.to_thread(comparable, sample.source, sample.result)
        if not changed and self.scheme.edits:
            return Score(0.0, "The image is unchanged.")
        questions = await self.questions(sample, usage)
        checked = await gather_or_cancel(self._check(question, sample) for question in questions)
        asked = tuple(q for q, value in zip(questions, checked, strict=True) if value is None)
        answers = await self._answers(asked, sample.instruction, before, after, usage) if asked else Answers((), "")
        rest = iter(answers.yes)
        values = [next(rest) if value is None else value for value in checked]
        total = sum(q.weight for q in questions)
        value = 100.0 * sum(q.weight * p for q, p in zip(questions, values, strict=True)) / total
        missed = "; ".join(q.ask for q, p in zip(questions, values, strict=True) if p < 0.5)
        feedback = " ".join(part for part in (answers.feedback, f"Not so: {missed}" if missed else "") if part)
        return Score(min(value, 100.0), feedback, {q.ask: p for q, p in zip(questions, values, strict=True)})

    async def _check(self, question: EditQuestion, sample: EditSample) -> float | None:
        """Return the detector's answer to a question, 0 to 1; None where it has none."""
        if self._checks is None or question.check is None:
            return None
        try:
            checked = await self._checks.evaluate(replace(sample, metadata={"checks": [dict(question.check)]}))
        except EvaluatorError as fault:
            logger.debug("the judge answers %r, because the detector does not: %s", question.ask, fault)
            return None
        return checked.value / 100.0

    async def _answers(
        self,
        questions: tuple[EditQuestion, ...],
        instruction: str,
        before: Image.Image,
        after: Image.Image,
        usage: JudgeUsage,
    ) -> Answers:
        """Return the judge's answers, the mean over the passes."""
        shown = [before, after] if self.scheme.edits else [after]
        content = [await self._image(image) for image in shown]
        form = AnswerQuestions(questions, self.scheme.edits)
        words: Mapping[str, object] = {"type": "text", "text": form.text(instruction)}
        passes = await gather_or_cancel(
            self._client.ask([*content, words], form, number, usage) for number in range(self.settings.passes)
        )
        return Answers(tuple(np.mean([answer.yes for answer in passes], axis=0).tolist()), passes[0].feedback)

    async def _image(self, image: Image.Image) -> Mapping[str, object]:
        url = await asyncio.to_thread(data_uri, image, self.settings.max_pixels)
        return {"type": "image_url", "image_url": {"url": url}}

    async def _made(self, sample: EditSample, usage: JudgeUsage) -> tuple[EditQuestion, ...]:
        """Return the questions that the judge made of an instruction, at this call or an earlier one."""
        rubric = self.rubric.for_judge() if self.rubric is not None else ""
        whole = [self.settings.model, str(self.settings.most), rubric, sample.instruction, str(sample.source.size)]
        digest = hashlib.sha256("\n".join(whole).encode("utf-8", "surrogatepass"))
        digest.update(sample.source.tobytes())
        key = digest.hexdigest()[:32]
        task = self._known.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            if len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            # Results of one task are scored at the same time: the first one asks, and the others wait for it.
            task = self._known[key] = asyncio.create_task(self._make(key, sample, usage))
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._known.get(key) is task:
                del self._known[key]  # the next result asks again
            raise

    async def _make(self, key: str, sample: EditSample, usage: JudgeUsage) -> tuple[EditQuestion, ...]:
        file = None if self.settings.cache is None else self.settings.cache / f"{key}.json"
        if file is not None and (kept := await asyncio.to_thread(_read, file)) is not None:
            return kept
        form = Decompose(self.settings.most)
        rubric = self.rubric.for_judge() if self.rubric is not None else ""
        content = [await self._image(sample.source)] if self.scheme.edits else []
        words: Mapping[str, object] = {"type": "text", "text": form.text(sample.instruction, rubric)}
        made = await self._client.ask([*content, words], form, 0, usage)
        return made if file is None else await asyncio.to_thread(_keep, file, sample.instruction, made)


def _read(file: Path) -> tuple[EditQuestion, ...] | None:
    """Return the questions in a file; None where there is none.

    Raises:
        EvaluatorError: it holds something else.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        data = json.loads(text)
        return read_questions(data["questions"])
    except (ValueError, TypeError, KeyError, EvaluatorError) as fault:
        raise EvaluatorError(f"{file} holds no questions ({fault}): remove it, so that they are made again") from None


def _keep(file: Path, instruction: str, made: Sequence[EditQuestion]) -> tuple[EditQuestion, ...]:
    """Keep questions in a file and return them; those of another process that came first are kept and returned.

    Raises:
        ConfigError: the folder cannot be written.
    """
    data = {"instruction": instruction, "questions": [question.model_dump(exclude_none=True) for question in made]}
    scratch = file.with_name(f".{file.stem}-{uuid.uuid4().hex}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        # A link, unlike a rename, replaces nothing: all processes score a task by the same questions.
        with suppress(FileExistsError):
            os.link(scratch, file)
    except OSError as fault:
        raise ConfigError(f"the questions of tasks cannot be kept in {file.parent}: {fault.strerror}") from fault
    finally:
        scratch.unlink(missing_ok=True)
    return _read(file) or tuple(made)
