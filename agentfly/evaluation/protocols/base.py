"""The parts of a benchmark protocol: requests, the reading of replies, the score of a sample, and the averages.

A protocol is one file of data and small functions, and one entry of `agentfly.evaluation.protocols.registry`. The texts
of its prompts are not here: they are read at run time from the authors' files, see
`agentfly.evaluation.protocols.prompts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from PIL import Image

from agentfly.evaluators import EditSample
from agentfly.evaluators.judge.replies import Token

Ratings = Mapping[str, float]
Metadata = Mapping[str, object]


@dataclass(frozen=True)
class PromptFile:
    """A file of the authors with prompts.

    Attributes:
        path: below the root of their repository.
        names: of the prompts: variables of a Python file, or keys of a JSON file. Empty for all keys of a JSON file.
        labels: words before the images, by function of a Python file: our names of the literals
            `{"type": "text", "text": …}` in it, in their order.
    """

    path: str
    names: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """A part of a benchmark that is reported alone.

    Attributes:
        data: split of the data set; None for its default.
        options: of the data set.
        sizes: numbers of tasks with which the split is whole; empty where its makers name none.
        prompts: files with the prompts.
    """

    data: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()
    prompts: tuple[PromptFile, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """The form in which images are sent to the judge.

    Attributes:
        form: of the file.
        quality: of JPEG; Pillow's own default is 75.
        longest: pixels of the longer side at most; None for the image as it is.
        detail: field of OpenAI's `image_url`; None leaves it out.
    """

    form: Literal["png", "jpeg"] = "png"
    quality: int = 75
    longest: int | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Ask:
    """One request to the judge. It is the form of its reply, too (`JudgeForm` of the judge's client).

    Attributes:
        content: words and images in their order.
        reader: returns the ratings of a reply, on the authors' scale; raises `BrokenReply` where it has none.
    """

    content: tuple[str | Image.Image, ...]
    reader: Callable[[str], Ratings]

    wanted: ClassVar[str] = "ratings"
    needs_logprobs: ClassVar[bool] = False

    def schema(self) -> None:
        """Return None: the authors ask for no structured output."""

    def read(self, text: str, tokens: Sequence[Token]) -> Ratings:
        """Return the ratings of a reply.

        Args:
            text: the whole reply.
            tokens: not used.

        Raises:
            BrokenReply: the reply has no ratings.
        """
        return self.reader(text)


@dataclass(frozen=True)
class Row:
    """One scored attempt.

    Attributes:
        task: id of the task; attempts at one task share it.
        group: the benchmark's own name of the task's type.
        aspects: of the score.
        metadata: of the task.
    """

    task: str
    group: str
    aspects: Ratings
    metadata: Metadata


@dataclass(frozen=True)
class Measure:
    """A figure of a benchmark: the mean over tasks in each stratum, then over strata.

    One stratum is the mean over all tasks ("micro"); a stratum for each type is the mean of the types' means ("macro").

    Attributes:
        name: of the figure.
        group: type of task that it is about; None for all.
        strata: (id of the task, value) of each attempt.
    """

    name: str
    group: str | None
    strata: Mapping[str, Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class Protocol:
    """What all protocols have.

    Attributes:
        name: on the command line.
        title: of the benchmark.
        repository: of its authors on GitHub, as OWNER/NAME; "" where they publish no script.
        commit: of the repository that was read for this protocol, and that prompts are downloaded from.
        data: name of the data set in `agentfly.datasets.load_tasks`.
        splits: by name; the first is the default.
        measures: returns the figures of scored attempts, the headline first.
        decimals: of the figures in tables.
        note: one sentence on the figures, for the table.
    """

    name: str
    title: str
    repository: str
    commit: str
    data: str
    splits: Mapping[str, Split]
    measures: Callable[[Sequence[Row]], Iterator[Measure]]
    decimals: int
    note: str


@dataclass(frozen=True)
class JudgedProtocol(Protocol):
    """A protocol whose scores come from a vision-language model.

    Attributes:
        judge: settings of the authors' judge: fields of `JudgeSettings`, `model` among them.
        asks: returns the requests for a sample, by prompt name and text; raises `EvaluatorError` where the sample
            lacks something. They are sent at the same time.
        score: returns the value (0 to 100) and the aspects (0 to 1) of the ratings of all requests.
        lowest: the ratings of a result that is not there.
        encoding: of the images.
    """

    judge: Mapping[str, object]
    asks: Callable[[EditSample, Image.Image, Mapping[str, str]], list[Ask]]
    score: Callable[[Ratings, Metadata], tuple[float, dict[str, float]]]
    lowest: Callable[[Metadata], Ratings]
    encoding: Callable[[Metadata], Encoding]


@dataclass(frozen=True)
class MeasuredProtocol(Protocol):
    """A protocol whose scores are distances and similarities.

    Attributes:
        metrics: names of `agentfly.evaluation.protocols.measured.METRICS`, the headline first.
        against: "target" or "source", the image that the result is compared with.
        models: checkpoints by role, "clip" and "dino".
    """

    metrics: tuple[str, ...]
    against: Literal["target", "source"]
    models: Mapping[str, str]


def over_tasks(rows: Sequence[Row], name: str, of: Callable[[Row], float | None], group: str | None = None) -> Measure:
    """Return the mean over the tasks of rows, each task alike.

    Args:
        rows: the attempts that count.
        name, group: of the figure.
        of: value of an attempt; None leaves the attempt out.
    """
    return Measure(name, group, {"": [(row.task, value) for row in rows if (value := of(row)) is not None]})


def over_groups(rows: Sequence[Row], name: str, of: Callable[[Row], float | None]) -> Measure:
    """Return the mean of the means of the groups of rows, each group alike; see `over_tasks`."""
    strata: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        if (value := of(row)) is not None:
            strata.setdefault(row.group, []).append((row.task, value))
    return Measure(name, None, strata)


def groups_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return rows by their group, in the order of the names."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.group):
        found.setdefault(row.group, []).append(row)
    return found


def aspect(name: str, scale: float = 1.0, offset: float = 0.0) -> Callable[[Row], float | None]:
    """Return a function that gives an aspect of an attempt on the authors' scale: `offset + scale * aspect`.

    Args:
        name: of the aspect; an attempt without it gives None.
        scale, offset: of the authors' scale.
    """

    def of(row: Row) -> float | None:
        value = row.aspects.get(name)
        # The aspect was divided before: rounding gives the judge's own number back.
        return None if value is None else round(offset + scale * value, 9)

    return of
