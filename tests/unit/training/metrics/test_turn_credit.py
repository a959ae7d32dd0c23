"""Credit by turn adds up to the reward, and lies on the tokens of the turn that earned it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agentfly.errors import ConfigError, EvaluatorError
from agentfly.evaluators import EditSample, Reward, Score
from agentfly.training.metrics import credit_turns, score_turns

IMAGE = Image.new("RGB", (4, 4))


def test_each_turn_gets_what_its_edit_changed_and_the_last_token_the_rest() -> None:
    reward = Reward(0.55, {"edit": 0.6, "format": -0.05})
    credit = credit_turns([40, None, 60], [(0, 3), (5, 7), (9, 12)], reward, 14)
    assert credit.by_turn == pytest.approx((0.4, 0.0, 0.2))
    assert credit.rest == pytest.approx(-0.05)
    expected = [0.0] * 14
    expected[2], expected[11] = 0.4, 0.2 - 0.05
    assert credit.token_rewards == pytest.approx(expected)


def test_an_edit_that_spoils_is_charged_to_its_turn() -> None:
    credit = credit_turns([80, 30], [(0, 2), (2, 4)], Reward(0.3, {}), 4)
    assert credit.token_rewards == pytest.approx((0, 0.8, 0, -0.5))


def test_even_spreads_over_the_tokens_of_the_turn() -> None:
    credit = credit_turns([40, 60], [(0, 4), (6, 8)], Reward(0.6, {}), 8, placement="even")
    assert credit.token_rewards == pytest.approx((0.1, 0.1, 0.1, 0.1, 0, 0, 0.1, 0.1))


turns = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(0, 100)), st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=6
)


@given(turns, st.floats(-0.2, 1), st.floats(0, 100), st.sampled_from(["end", "even"]))
def test_the_tokens_sum_to_the_reward_and_observations_get_nothing(
    given_turns: list[tuple[float | None, int, int]], value: float, start: float, placement: str
) -> None:
    spans, position = [], 0
    for _, sampled, observed in given_turns:
        spans.append((position, position + sampled))
        position += sampled + observed
    if all(first == last for first, last in spans):
        return
    scores = [score for score, _, _ in given_turns]
    credit = credit_turns(scores, spans, Reward(value, {}), position, start=start, placement=placement)  # type: ignore[arg-type]
    assert sum(credit.token_rewards) == pytest.approx(value, abs=1e-9)
    assert sum(credit.by_turn) + credit.rest == pytest.approx(value, abs=1e-9)
    places = {place for first, last in spans for place in range(first, last)}
    assert all(credit.token_rewards[place] == 0 for place in range(position) if place not in places)


@pytest.mark.parametrize("spans", [[(0, 2)], [(0, 2), (2, 9)], [(0, 0), (0, 0)], [(3, 1), (0, 1)]])
def test_spans_that_do_not_fit_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ConfigError):
        credit_turns([10, 20], spans, Reward(0.2, {}), 4)


async def test_turns_are_scored_where_there_is_an_image() -> None:
    class Told:
        async def evaluate(self, sample: EditSample) -> Score:
            if sample.instruction == "broken":
                raise EvaluatorError("no")
            return Score(float(sample.instruction))

    def sample(words: str) -> EditSample:
        return EditSample(words, IMAGE, IMAGE)

    assert await score_turns(Told(), [sample("40"), None, sample("60")]) == [40.0, None, 60.0]
    with pytest.raises(EvaluatorError):
        await score_turns(Told(), [sample("40"), sample("broken")])
