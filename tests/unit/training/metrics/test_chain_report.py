"""The report of a chain, from chains whose tools really ran."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from agentfly.agents import Trajectory
from agentfly.agents.trajectory import ToolRecord, Turn
from agentfly.datasets import EditTask
from agentfly.images import ImageStore
from agentfly.training.metrics.chain_report import Interval, facts_of, intervals_of, turn_results
from tests.unit.training.chains import ANSWER, ANSWER_SOURCE, bad_edit, call, good_edit, roll, task_of


@pytest.fixture(scope="module")
def task() -> EditTask:
    return task_of()


async def test_a_good_chain(task: EditTask) -> None:
    trajectory, store = await roll(task, [good_edit(task), ANSWER])
    facts = facts_of(trajectory, store)
    assert (facts.calls, facts.malformed, facts.edits, facts.no_op_edits) == (2, 0, 1, 0)
    assert facts.answered
    assert facts.longest_repeat == 1
    # The mask of the tool covers what the task's mask covers, and a little more.
    wanted = float((np.asarray(task.mask) > 127).mean())
    assert len(facts.coverage) == 1
    assert wanted * 0.8 < facts.coverage[0] < wanted * 2.5
    assert turn_results(trajectory) == [trajectory.final_image, None]


async def test_a_call_that_failed_is_no_edit(task: EditTask) -> None:
    failing = call("inpaint_image", image_id="img_1", mask_id="mask_9", prompt="")
    trajectory, store = await roll(task, [failing, bad_edit(), ANSWER])
    facts = facts_of(trajectory, store)
    assert (facts.calls, facts.edits, facts.no_op_edits, facts.coverage) == (3, 1, 0, ())
    assert turn_results(trajectory) == [None, trajectory.final_image, None]


async def test_an_edit_that_changes_nothing_is_counted() -> None:
    flat = EditTask(id="flat", instruction="Blur it.", images=(grey(100),))
    trajectory, store = await roll(flat, [call("qwen_edit_image", image_id="img_1", prompt="blur"), ANSWER_SOURCE])
    facts = facts_of(trajectory, store)
    assert trajectory.tool_records[0].error is None
    assert (facts.edits, facts.no_op_edits) == (1, 1)
    assert turn_results(trajectory) == [None, None]


async def test_masks_by_name_are_covered_too(task: EditTask) -> None:
    words = task.metadata["steps"][0]["detect"]
    detect = call("detect_objects", image_id="img_1", text_prompt=words, box_threshold=0.6)
    paint = call("inpaint_image", image_id="img_1", mask_id="mask_1", prompt="")
    trajectory, store = await roll(task, [detect, paint, ANSWER])
    facts = facts_of(trajectory, store)
    assert (facts.calls, facts.edits) == (3, 1)
    mask = np.asarray(store.get(trajectory.names["mask_1"]))
    assert list(facts.coverage) == [pytest.approx(float((mask > 127).mean()))]
    # A detection makes an image, but no edit.
    assert turn_results(trajectory) == [None, trajectory.final_image, None]


async def test_loops_and_malformed_calls_are_counted(task: EditTask) -> None:
    looking = call("detect_objects", image_id="img_1", text_prompt="a dog")
    trajectory, store = await roll(task, [looking, looking, '<tool_call>{"name": 3}</tool_call>', ANSWER_SOURCE])
    facts = facts_of(trajectory, store)
    assert (facts.calls, facts.malformed, facts.longest_repeat, facts.edits) == (4, 1, 2, 0)
    assert facts.answered
    assert turn_results(trajectory) == [None] * 4


async def test_the_last_edit_of_a_turn_counts(task: EditTask) -> None:
    darker = bad_edit().replace("img_1", "img_2")
    trajectory, _ = await roll(task, [good_edit(task) + darker, ANSWER.replace("img_2", "img_3")])
    assert turn_results(trajectory) == [trajectory.final_image, None]


async def test_intervals_are_when_things_ran(task: EditTask) -> None:
    trajectory, _ = await roll(task, [good_edit(task), '<tool_call>{"name": 3}</tool_call>', ANSWER])
    found = intervals_of(trajectory)
    assert [each.tool for each in found] == ["", "", "", "auto_inpaint_image", "malformed", "give_answer"]
    assert all(0 < each.start <= each.end for each in found)
    in_time = sorted(found, key=lambda each: (each.start, each.end))
    assert [each.tool for each in in_time] == ["", "auto_inpaint_image", "", "malformed", "", "give_answer"]
    record = trajectory.tool_records[0]
    assert found[3] == Interval("auto_inpaint_image", record.began, record.began + record.seconds)


async def test_tools_that_do_not_exist_share_a_name(task: EditTask) -> None:
    """A policy that babbled left a metric for each of its words in every step of a run."""
    script = [call("1 star star", image_id="img_1"), call('18{"name": "', image_id="img_1"), ANSWER_SOURCE]
    trajectory, _ = await roll(task, script)
    assert [each.tool for each in intervals_of(trajectory)][3:] == ["unknown", "unknown", "give_answer"]


def changed(before: Image.Image, after: Image.Image | None) -> tuple[int, int]:
    """Edits and no-op edits of a chain with one edit from one image to another."""
    store = ImageStore()
    source = store.put(before)
    images = () if after is None else (store.put(after),)
    record = ToolRecord("qwen_edit_image", {}, 0.1, data={"source": source}, images=images)
    facts = facts_of(Trajectory("c", "g", [], turns=[Turn("", "stop", 0.1, (record,))]), store)
    return facts.edits, facts.no_op_edits


def test_a_call_that_only_looks_is_no_edit_whatever_its_data_say() -> None:
    """A tool of a user that looks may name its source; it would count as an edit, and be credited with its view."""
    store = ImageStore()
    source, view = store.put(grey(100)), store.put(grey(200))
    looked = ToolRecord("magnify", {}, 0.1, data={"source": source}, images=(view,), looks=True)
    trajectory = Trajectory("c", "g", [], turns=[Turn("", "stop", 0.1, (looked,))])
    assert (facts_of(trajectory, store).edits, facts_of(trajectory, store).looks) == (0, 1)
    assert turn_results(trajectory) == [None]


def test_a_source_that_is_no_image_makes_no_edit_of_a_call() -> None:
    """Words of a search, say; its call would count as an edit without a change, or end the chain's report."""
    store = ImageStore()
    found = ToolRecord("search", {}, 0.1, data={"source": "an encyclopedia"}, images=(store.put(grey(100)),))
    trajectory = Trajectory("c", "g", [], turns=[Turn("", "stop", 0.1, (found,))])
    assert (facts_of(trajectory, store).edits, facts_of(trajectory, store).no_op_edits) == (0, 0)
    assert turn_results(trajectory) == [None]


def grey(value: int, side: int = 64) -> Image.Image:
    return Image.fromarray(np.full((side, side, 3), value, np.uint8))


@pytest.mark.parametrize(
    ("after", "no_op"),
    [
        (None, 1),
        (grey(100), 1),
        (grey(101), 0),  # everywhere a little: a mean of 1
        (grey(100, 65), 0),
    ],
)
def test_what_counts_as_a_change(after: Image.Image | None, no_op: int) -> None:
    assert changed(grey(100), after) == (1, no_op)


def test_a_small_edit_is_one_and_the_cost_of_coding_is_none() -> None:
    small = grey(100)
    small.putpixel((3, 3), (140, 100, 100))
    assert changed(grey(100), small) == (1, 0)
    coded = np.asarray(grey(100)).copy()
    coded[::4, ::4] += 2
    assert changed(grey(100), Image.fromarray(coded)) == (1, 1)
