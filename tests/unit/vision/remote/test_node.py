"""One node: how much it is given, when it is left alone, and when it is trusted again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfly.errors import ConfigError
from agentfly.vision.remote.node import Circuit, Node, Slot
from agentfly.vision.remote.settings import NodeConfig, PoolSettings
from agentfly.vision.remote.statistics import quantile


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(clock: Clock) -> Node:
    node = Node(NodeConfig("http://h:1"), PoolSettings(open_seconds=1, max_open_seconds=4), clock)
    node.operations = frozenset(("edit",))
    return node


def take(node: Node, count: int) -> list[Slot]:
    return [node.take("edit") for _ in range(count)]


def test_limit_grows_by_one_a_round_when_it_is_used_up(node: Node) -> None:
    take(node, 4)
    for _ in range(4):
        node.record_success("edit", 1.0)
    assert node.limit == pytest.approx(5, abs=0.2)


def test_limit_does_not_grow_when_it_is_not_used(node: Node) -> None:
    take(node, 3)
    node.record_success("edit", 1.0)
    assert node.limit == 4


def test_limit_does_not_grow_when_requests_only_queue_there(node: Node) -> None:
    node.record_success("edit", 1.0)
    take(node, 4)
    node.record_success("edit", 2.5)
    assert node.limit == 4
    node.record_success("edit", 1.5)
    assert node.limit > 4


def test_a_server_that_tells_what_it_takes_at_once_gets_that_and_no_more(node: Node, clock: Clock) -> None:
    node.record_slots(2)
    assert node.limit == 2
    take(node, 2)
    assert not node.has_room()
    node.record_success("edit", 1.0)
    assert node.limit == 2
    node.record_busy(0.0)
    node.record_slots(2)  # told again by the next health check, which is no news
    assert node.limit == 1
    node.record_slots(200)  # many servers behind one address
    assert node.limit == 200
    node.record_slots(1_000_000)
    assert node.limit == PoolSettings().max_slots


def test_a_server_is_gone_when_it_is_silent_for_longer_than_a_restart_takes(clock: Clock) -> None:
    settings = PoolSettings(open_seconds=1, max_open_seconds=1, unreached_seconds=5, away_seconds=60)
    node = Node(NodeConfig("http://h:1"), settings, clock)

    def silent_for(seconds: float) -> None:
        end = clock.now + seconds
        while clock.now < end:
            node.record_silence("cannot connect")
            assert not node.probe_due()
            clock.now += 0.5
        node.record_silence("cannot connect")

    def gone() -> bool:
        return node.is_gone

    silent_for(5)
    assert gone()
    clock.now += 10
    assert not gone()  # a health check is due, and may find it
    node.record_healthy()
    silent_for(59)
    assert not gone()
    silent_for(2)
    assert gone()
    node.record_starting()
    assert not gone()


def test_bad_news_of_one_moment_halves_once(node: Node, clock: Clock) -> None:
    for _ in range(5):
        node.record_busy(0.0)
    assert node.limit == 2
    clock.now += 1
    node.record_failure("500")
    assert node.limit == 1


@given(st.lists(st.sampled_from(["ok", "busy", "fail"]), max_size=200))
def test_limit_stays_within_its_bounds(events: list[str]) -> None:
    clock = Clock()
    node = Node(NodeConfig("http://h:1"), PoolSettings(max_limit=8), clock)
    for event in events:
        clock.now += 0.7
        slots = take(node, int(node.limit))
        {
            "ok": lambda: node.record_success("edit", 1.0),
            "busy": lambda: node.record_busy(0),
            "fail": lambda: node.record_failure("x"),
        }[event]()
        for slot in slots:
            node.give_back(slot)
        assert 1 <= node.limit <= 8


@given(st.lists(st.sampled_from(["take", "give", "again", "away", "back", "loop"]), max_size=100))
def test_slots_of_before_an_absence_take_no_room(events: list[str]) -> None:
    clock, slots = Clock(), list[Slot]()
    node = Node(NodeConfig("http://h:1"), PoolSettings(), clock)
    for event in events:
        clock.now += 100.0
        if event == "take":
            slots += take(node, 1)
        elif event in ("give", "again") and slots:
            node.give_back(slots.pop() if event == "give" else slots[0])
            slots = slots[1:] if event == "again" else slots
        elif event == "away":
            node.record_silence("gone")
        elif event == "back":
            node.record_healthy()
        elif event == "loop":
            node.clear_in_flight()
            slots.clear()
        assert node.in_flight == len(slots)
        assert node.held == sum(slot.is_current for slot in slots)


def test_busy_node_is_given_nothing_for_as_long_as_it_asked(node: Node, clock: Clock) -> None:
    node.record_busy(3.0)
    clock.now += 2.9
    assert not node.has_room()
    clock.now += 0.2
    assert node.has_room()


def test_circuit_opens_after_three_failures_in_a_row_only(node: Node) -> None:
    node.record_failure("a")
    node.record_failure("b")
    node.record_success()
    node.record_failure("c")
    node.record_failure("d")
    assert node.has_room()
    node.record_failure("e")
    assert (node.circuit, node.has_room()) == (Circuit.open, False)


def test_a_refused_connection_opens_it_at_once(node: Node) -> None:
    node.record_failure("nobody there", away=True)
    assert node.circuit is Circuit.open


def test_half_open_admits_one_request_and_closes_with_its_success(node: Node, clock: Clock) -> None:
    node.record_failure("x", away=True)
    assert not node.probe_due()
    clock.now += 1
    assert node.probe_due()
    node.record_healthy()
    assert node.has_room()
    take(node, 1)
    assert not node.has_room()
    node.record_success("edit", 1.0)
    assert node.circuit is Circuit.closed


def test_what_was_sent_before_an_absence_takes_no_slot_of_the_node_that_came_back(node: Node, clock: Clock) -> None:
    old = take(node, 4)
    node.record_failure("x", away=True)
    clock.now += 1
    node.record_healthy()
    assert node.has_room()
    (trial,) = take(node, 1)
    assert (node.has_room(), node.in_flight) == (False, 5)
    assert (old[0].usable, trial.usable) == (False, True)
    for slot in old:
        node.give_back(slot)
    assert (node.has_room(), node.in_flight) == (False, 1)


def test_a_trial_that_hangs_does_not_hold_the_node_for_ever(node: Node, clock: Clock) -> None:
    node.record_failure("x", away=True)
    clock.now += 1
    node.record_healthy()
    take(node, 1)
    clock.now += 3.9
    assert not node.has_room()
    clock.now += 0.2
    assert node.has_room()
    take(node, 1)
    assert not node.has_room()


def test_time_alone_doubles_up_to_its_bound(node: Node, clock: Clock) -> None:
    waits = []
    for _ in range(4):
        node.record_failure("x", away=True)
        waits.append(node.not_before - clock.now)
        clock.now = node.not_before
        node.record_healthy()
    assert waits == [1, 2, 4, 4]
    node.record_success("edit", 1.0)
    node.record_failure("x", away=True)
    assert node.not_before - clock.now == 1


def test_many_failures_at_once_count_as_one_opening(node: Node, clock: Clock) -> None:
    for _ in range(20):
        node.record_failure("x", away=True)
    assert node.not_before - clock.now == 1


def test_starting_is_no_failure(node: Node, clock: Clock) -> None:
    node.record_starting()
    assert (node.has_room(), node.limit, node.starting) == (False, 4, True)
    clock.now += 1
    node.record_healthy()
    assert (node.has_room(), node.starting) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"base_url": "localhost:8000"}, "http://HOST:PORT"),
        ({"base_url": "http://h:8000/v1/"}, "leave /v1 out"),
        ({"base_url": "http://h", "adapter": "vllm"}, "Did you mean 'vllm-omni'"),
        ({"base_url": "http://h", "operations": frozenset(("paint",))}, "Did you mean 'inpaint'"),
        ({"base_url": "http://h", "adapter": "sglang", "operations": frozenset(("inpaint",))}, "ignores masks"),
        ({"base_url": "http://h", "api_key_env": "NO_SUCH_VARIABLE"}, "is not set"),
    ],
)
def test_nodes_that_cannot_be(arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        NodeConfig(**arguments)  # type: ignore[arg-type]


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="api_key_env") as fault:
        NodeConfig("http://me:geheim@h:8000")
    assert "geheim" not in str(fault.value)


@pytest.mark.parametrize("wrong", [{"initial_limit": 0}, {"max_limit": 0}, {"open_seconds": 0}, {"lost_after": 0}])
def test_settings_under_which_nothing_would_ever_be_sent(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PoolSettings(**wrong)


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile(list(range(100)), 0.99) == 99
