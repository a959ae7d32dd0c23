"""The card of exported trajectories: YAML for the hub, figures, columns, and the commands to load and to push it.

The front matter follows the data set cards of the Hugging Face hub (https://huggingface.co/docs/hub/datasets-cards).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentfly import __version__
from agentfly.agents.trajectory_file import TrajectoryLine
from agentfly.errors import shortened
from agentfly.evaluation.hub.secrets import SecretFilter
from agentfly.evaluation.hub.shards import SplitSize
from agentfly.evaluation.report.markdown import plain, table

if TYPE_CHECKING:
    import datasets

# The categories of sizes that the hub knows, by the first number of rows beyond each.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST = "1M<n<10M"
# Rows of a table of a card: a hostile file can have a type for each chain.
_MOST_ROWS = 30


@dataclass
class _Group:
    chains: int = 0
    scores: list[float] = field(default_factory=list)


@dataclass
class Figures:
    """Counts of the exported chains, for the card.

    Attributes:
        splits, stops, tools: chains by split, chains by stop reason, calls by name of the tool.
        turns, images, with_tokens, without_tokens: turns, images of the conversations, chains with tokens, and chains
            whose tokens were left out for a key in a text.
    """

    splits: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)
    turns: int = 0
    images: int = 0
    with_tokens: int = 0
    without_tokens: int = 0
    _types: dict[str, _Group] = field(default_factory=lambda: defaultdict(_Group))

    @property
    def chains(self) -> int:
        """Number of the chains."""
        return self.splits.total()

    def add(self, line: TrajectoryLine, split: str, *, has_tokens: bool) -> None:
        """Count a chain.

        Args:
            line: of the chain.
            split: of its row.
            has_tokens: its row has tokens.
        """
        trajectory = line.trajectory
        self.splits[split] += 1
        self.stops[trajectory.stop_reason or "none"] += 1
        self.tools.update(record.name or "malformed call" for record in trajectory.tool_records)
        self.turns += len(trajectory.turns)
        self.images += len(trajectory.images)
        self.with_tokens += has_tokens
        self.without_tokens += trajectory.tokens is not None and not has_tokens
        group = self._types[line.described_task().task_type]
        group.chains += 1
        if trajectory.score is not None:
            group.scores.append(trajectory.score)

    def types(self) -> Iterator[tuple[str, str, str]]:
        """Yield type of task, chains and mean score as text."""
        for name, group in sorted(self._types.items(), key=lambda item: -item[1].chains):
            mean = f"{sum(group.scores) / len(group.scores):.1f}" if group.scores else "–"
            yield name, str(group.chains), mean


@dataclass(frozen=True)
class Card:
    """The README of an export.

    Attributes:
        name: heading.
        model: name of the policy, "" where it is not known.
        data: name of the tasks' data set, "" where it is not known.
        tokens: ids, mask and log-probs were asked for.
        secrets: cleans the texts.
    """

    name: str
    model: str
    data: str
    tokens: bool
    secrets: SecretFilter

    def text(
        self,
        figures: Figures,
        left_out: Mapping[str, int],
        features: datasets.Features,
        sizes: Mapping[str, SplitSize],
    ) -> str:
        """Return the text of the card.

        Args:
            figures: of the exported chains.
            left_out: other chains by reason.
            features: types of the columns.
            sizes: by split.
        """
        return "\n".join([*_front(self.name, figures.chains, features, sizes), "", *self._body(figures, left_out)])

    def show(self, text: str) -> str:
        """Return foreign text for the card: one line, cut to a readable length, without keys and without markup."""
        return plain(self.secrets.text(shortened(text)))

    def _body(self, figures: Figures, left_out: Mapping[str, int]) -> Iterator[str]:
        yield f"# {self.show(self.name)}\n"
        by = f" of the policy {self.show(self.model)}" if self.model else ""
        on = f" on the tasks of {self.show(self.data)}" if self.data else ""
        yield (
            f"{figures.chains} trajectories{by}{on}: an agent that edits images with tools, turn by turn, with every "
            f"image. Written by agentfly {__version__}.\n"
        )
        yield "## License\n"
        yield (
            "**Not chosen yet.** Add `license:` to the header of this file before you publish it. Check the terms of "
            "the source images, of the tasks and of the models that made the edits: they can forbid it.\n"
        )
        yield from _figures(self, figures, left_out)
        yield from _use(figures)


def _front(name: str, chains: int, features: datasets.Features, sizes: Mapping[str, SplitSize]) -> Iterator[str]:
    from datasets.info import DatasetInfo, DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo
    from huggingface_hub import DatasetCardData

    splits = SplitDict({key: SplitInfo(key, size.bytes, size.rows) for key, size in sizes.items()})
    info = DatasetInfo(
        features=features,
        splits=splits,
        download_size=sum(file.stat().st_size for size in sizes.values() for file in size.files),
        dataset_size=sum(size.bytes for size in sizes.values()),
    )
    front = DatasetCardData(
        pretty_name=name,
        size_categories=[next((label for below, label in _SIZES if chains < below), _LARGEST)],
        task_categories=["image-to-image"],
        tags=["agentfly", "trajectories", "agent", "tool-use", "image-editing"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": key, "path": f"data/{key}-*.parquet"} for key in sizes],
            }
        ],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(front)
    yield "---"
    yield "# license: none is chosen yet; see below"
    yield front.to_yaml().rstrip()
    yield "---"


def _figures(card: Card, figures: Figures, left_out: Mapping[str, int]) -> Iterator[str]:
    show = card.show
    yield "## Figures\n"
    yield table(
        ["", "chains"],
        [
            *([f"split {split}", str(count)] for split, count in figures.splits.items()),
            *([f"left out: {reason}", str(count)] for reason, count in left_out.items()),
            *([["with token ids, mask and log-probs", str(figures.with_tokens)]] if card.tokens else []),
        ],
    )
    yield f"{figures.turns} turns, {figures.images} images in the conversations.\n"
    if card.tokens and figures.without_tokens:
        yield f"{figures.without_tokens} chains have no tokens, because a key was taken out of their texts.\n"
    types = [(show(name), count, mean) for name, count, mean in figures.types()]
    yield _top(["task type", "chains", "mean score"], types)
    yield _top(["stop reason", "chains"], [(show(name), str(n)) for name, n in figures.stops.most_common()])
    if figures.tools:
        yield _top(["tool", "calls"], [(show(name), str(n)) for name, n in figures.tools.most_common()])


def _top(head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    more = [(f"and {len(rows) - _MOST_ROWS} more", *[""] * (len(head) - 1))] if len(rows) > _MOST_ROWS else []
    return table(head, [*rows[:_MOST_ROWS], *more])


def _use(figures: Figures) -> Iterator[str]:
    split = next(iter(figures.splits))
    yield "## Use\n"
    yield f"""```python
from datasets import load_dataset

rows = load_dataset("FOLDER_OR_NAME", split="{split}")
row = rows[0]
row["images"]  # the images of the conversation; an image part of `messages` holds its place in this list
```
"""
    yield """| columns | hold |
| --- | --- |
| `id`, `group`, `step`, `validate`, `model` | chain, its group, training step, policy at the start |
| `task_id`, `instruction`, `task_type`, `metadata`, `source_images`, `target`, `mask` | the task; metadata is JSON |
| `messages`, `images` | the conversation and its images, in the order of their placeholders |
| `turns`, `tool_calls`, `tools` | turns as sampled, calls with times and results, schemas as JSON |
| `result`, `answer`, `stop_reason`, `error` | what came out |
| `score`, `aspects`, `evaluations`, `reward`, `reward_parts` | scores from 0 to 100, and the reward of training |
| `tokens` | exact ids of prompt and response, 1 where sampled, log-probs; absent where they were not recorded |
| `names`, `unshown_images`, `chain_metadata`, `seconds` | what else belongs to the chain; names and metadata are JSON |

`agentfly eval --data FOLDER` takes the tasks of this folder, and `agentfly.evaluation.hub.line_of(row, store)` makes a
trajectory of a row again.

## Publish

```bash
hf upload YOUR_NAME/DATASET FOLDER . --repo-type dataset
```
"""
