"""Checkable questions about an edit: their form, how a judge makes them of an instruction, and how it answers them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators.judge.replies import BrokenReply, Token, chance_of_yes, read_object, read_words
from agentfly.evaluators.judge.schemes import HONEST, JSON_ONLY, closed_object, reply_schema
from agentfly.evaluators.measured.detector_checked import read_checks
from agentfly.settings import Settings

_LONGEST = 300  # characters of a question
_KINDS = ("none", "gone", "present", "colour")


class EditQuestion(Settings):
    """A question about a result, to which yes is the good answer.

    Attributes:
        ask: the question.
        weight: its weight in the score, relative to the others.
        check: the same question for a detector, in the form of `metadata["checks"]`; None where only a judge can tell.
    """

    ask: str = Field(min_length=1, max_length=_LONGEST)
    weight: float = Field(1.0, gt=0, le=100)
    check: Mapping[str, str] | None = None


def read_questions(given: object) -> tuple[EditQuestion, ...]:
    """Return the questions of a task's metadata.

    Args:
        given: a list of questions: texts, or mappings of the fields of `EditQuestion`.

    Raises:
        EvaluatorError: it is no such list; the message shows the form.
    """
    form = '[{"ask": "Is the red circle gone?", "weight": 2, "check": {"gone": "red circle"}}, …]'
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise EvaluatorError(f'metadata["questions"] has no questions: give {form}')
    found: dict[str, EditQuestion] = {}
    for entry in given:
        # Rows of a data set have every key in every entry, with None where it does not apply.
        fields = {key: value for key, value in entry.items() if value} if isinstance(entry, Mapping) else {"ask": entry}
        try:
            if check := fields.get("check"):
                # Read once, so that a wrong check is found before anything is asked.
                fields["check"] = {key: value for key, value in dict(check).items() if value}
                read_checks([fields["check"]])
            question = EditQuestion(**fields)
        except (ConfigError, EvaluatorError, TypeError, ValueError) as fault:
            raise EvaluatorError(f'metadata["questions"] has a wrong entry ({fault}): give {form}') from None
        found.setdefault(question.ask, question)
    return tuple(found.values())


@dataclass(frozen=True)
class Decompose:
    """The request to make questions of an instruction.

    Attributes:
        most: number of questions at most.
    """

    most: int

    wanted: ClassVar[str] = "questions"
    needs_logprobs: ClassVar[bool] = False

    def text(self, instruction: str, rubric: str = "") -> str:
        """Return the words of the request, which follow the image.

        Args:
            instruction: the request to the agent.
            rubric: criteria for the judge.
        """
        parts = [
            "The image will be edited by an instruction. Write the questions by which somebody who sees this image and "
            "the result can check the edit.",
            f"Instruction, between the lines:\n---\n{instruction.strip()}\n---",
            rubric,
            f"Write {min(3, self.most)} to {self.most} questions. Each asks for one fact that can be seen, names the "
            "object and its place, and is answered by yes if the edit is good. Ask for every part of the instruction; "
            "ask if everything else is as it was; ask if the edited part looks natural.",
            "weight is 3 for a part of the instruction, 2 for what has to stay, and 1 for how it looks.",
            "check is the same question for an object detector: kind gone (there are fewer of the object than before), "
            "present (there are more), or colour (the object has that colour), with the object as a detector finds it, "
            "such as red circle. kind is none where such a check does not answer the whole question.",
            HONEST,
            JSON_ONLY.format(keys="questions"),
        ]
        return "\n\n".join(part for part in parts if part)

    def schema(self) -> dict[str, object]:
        """Return the reply's form."""
        words = {"type": "string"}
        check = closed_object({"kind": {"type": "string", "enum": list(_KINDS)}, "object": words, "colour": words})
        weight = {"type": "integer", "minimum": 1, "maximum": 3}
        question = closed_object({"ask": words, "weight": weight, "check": check})
        return reply_schema("edit_questions", {"questions": {"type": "array", "items": question}})

    def read(self, text: str, tokens: Sequence[Token]) -> tuple[EditQuestion, ...]:
        """Return the questions of a reply; see `JudgeForm.read`. A check that is none is left out."""
        given = read_object(text, {"questions"})["questions"]
        if not isinstance(given, list):
            raise BrokenReply(f"questions is {type(given).__name__}, not a list")
        found: dict[str, EditQuestion] = {}
        for entry in given:
            if not isinstance(entry, Mapping) or "ask" not in entry:
                raise BrokenReply("an entry of questions has no ask")
            ask = " ".join(read_words(entry, "ask").split())
            weight = entry.get("weight")
            try:
                known = isinstance(weight, int | float) and not isinstance(weight, bool)
                made = EditQuestion(ask=ask, weight=weight if known else 1.0, check=_check(entry.get("check")))
            except ConfigError as fault:
                raise BrokenReply(f"a question is wrong: {fault}") from None
            found.setdefault(ask, made)
        if not 0 < len(found) <= self.most:
            raise BrokenReply(f"there are {len(found)} questions, and 1 to {self.most} are wanted")
        return tuple(found.values())


def _check(given: object) -> dict[str, str] | None:
    """Return the check of a reply in the form of `metadata["checks"]`; None where it is none that a detector knows."""
    if not isinstance(given, Mapping):
        return None
    kind, thing, colour = (given.get(name) for name in ("kind", "object", "colour"))
    if kind not in _KINDS[1:] or not isinstance(thing, str) or not thing.strip():
        return None
    if kind != "colour":
        return {str(kind): thing.strip()}
    check = {"colour": str(colour).strip(), "of": thing.strip()}
    with contextlib.suppress(EvaluatorError):
        read_checks([check])
        return check
    return None


@dataclass(frozen=True)
class Answers:
    """Probabilities of yes, and the words beside them.

    Attributes:
        yes: for each question, 0 to 1.
        feedback: of the judge.
    """

    yes: tuple[float, ...]
    feedback: str


@dataclass(frozen=True)
class AnswerQuestions:
    """The request to answer some questions with yes or no.

    Attributes:
        questions: to answer.
        edits: the image before the edit is shown, too.
    """

    questions: tuple[EditQuestion, ...]
    edits: bool = True

    wanted: ClassVar[str] = "answers"
    needs_logprobs: ClassVar[bool] = True

    @property
    def _names(self) -> list[str]:
        return [f"answer_{number}" for number in range(1, len(self.questions) + 1)]

    def text(self, instruction: str) -> str:
        """Return the words of the request, which follow the images.

        Args:
            instruction: the request to the agent.
        """
        shown = (
            "The first image was edited by an instruction; the second is the result."
            if self.edits
            else "This image was made by an instruction."
        )
        asked = "\n".join(f"- {name}: {q.ask}" for name, q in zip(self._names, self.questions, strict=True))
        parts = [
            f"{shown} Answer each question about the result with yes or no.",
            f"Instruction, between the lines:\n---\n{instruction.strip()}\n---",
            f"Questions:\n{asked}",
            "feedback is one or two sentences that say what you see.",
            HONEST,
            JSON_ONLY.format(keys=", ".join(("feedback", *self._names))),
        ]
        return "\n\n".join(parts)

    def schema(self) -> dict[str, object]:
        """Return the reply's form; words come first, so that answers follow what was seen."""
        answer = {"type": "string", "enum": ["yes", "no"]}
        return reply_schema("edit_answers", {"feedback": {"type": "string"}, **dict.fromkeys(self._names, answer)})

    def read(self, text: str, tokens: Sequence[Token]) -> Answers:
        """Return the answers of a reply; see `JudgeForm.read`. Without log-probs an answer is 0 or 1."""
        item = read_object(text, {"feedback", *self._names})
        yes = []
        for name in self._names:
            said = read_words(
                {name: "yes" if item[name] is True else "no" if item[name] is False else item[name]}, name
            )
            if said.lower() not in ("yes", "no"):
                raise BrokenReply(f"{name} is {said[:40]!r}, neither yes nor no")
            chance = chance_of_yes(tokens, name)
            yes.append(float(said.lower() == "yes") if chance is None else chance)
        return Answers(tuple(yes), read_words(item, "feedback"))
