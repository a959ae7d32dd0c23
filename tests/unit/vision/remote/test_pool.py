"""The pool against real HTTP servers that misbehave on demand: every request is answered, by one, once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from agentfly.errors import ConfigError, ToolError, ToolOutage
from agentfly.vision.base import EditParams
from agentfly.vision.remote import NodeConfig, PoolSettings, PoolStatistics, RemoteEngines, remote_engines
from tests.unit.vision.remote.fake_node import FakeNode, answer, held, make_image, says, status

QUICK = PoolSettings(open_seconds=0.1, max_open_seconds=0.2, probe_seconds=1, connect_seconds=1)


@pytest.fixture
def nodes() -> Iterator[Callable[[int], list[FakeNode]]]:
    """Servers that listen until the test ends."""
    with ExitStack() as stack:
        yield lambda count: [stack.enter_context(FakeNode().up()) for _ in range(count)]


def pool(*nodes: FakeNode, **settings: Any) -> RemoteEngines:
    arguments = {"timeout": 10.0, "settings": QUICK, **settings}
    return remote_engines([node.address for node in nodes], **arguments)


async def edit(engines: RemoteEngines, prompt: str = "x", seed: int | None = None) -> Image.Image:
    return await engines.editor.edit(make_image(), prompt, EditParams(seed=seed))


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def balanced(statistics: PoolStatistics) -> bool:
    """Return True if every request and every attempt ended in exactly one way."""
    pool = statistics
    ended = pool.answered + pool.refused + pool.timed_out + pool.failed + pool.cancelled + pool.pending
    attempts = all(
        node.attempts == node.answered + node.refused + node.failed + node.busy + node.cancelled + node.in_flight
        for node in pool.nodes
    )
    return pool.requests == ended and attempts and pool.pending == 0 and not any(n.in_flight for n in pool.nodes)


@pytest.mark.slow
async def test_work_is_shared_by_load(nodes: Callable[[int], list[FakeNode]]) -> None:
    pair = nodes(2)
    for node in pair:
        node.otherwise = answer(after=0.02)
    engines = pool(*pair)
    await asyncio.gather(*(edit(engines) for _ in range(40)))
    statistics = engines.get_statistics()
    await engines.close()
    assert all(12 <= node.answered <= 28 for node in statistics.nodes)
    assert (statistics.answered, balanced(statistics)) == (40, True)


async def test_a_node_never_sees_more_than_its_limit(nodes: Callable[[int], list[FakeNode]]) -> None:
    (node,) = nodes(1)
    node.otherwise = answer(after=0.01)
    engines = pool(node, settings=PoolSettings(initial_limit=2, max_limit=3))
    await asyncio.gather(*(edit(engines) for _ in range(30)))
    await engines.close()
    assert node.most_running <= 3


@pytest.mark.parametrize(
    "fault", [status(500), status(408, "too slow"), status(502, "bad gateway"), says(b"<html>"), says({"data": []})]
)
async def test_a_failure_moves_the_request_to_another_node(nodes: Callable[[int], list[FakeNode]], fault: Any) -> None:
    pair = nodes(2)
    for node in pair:
        node.script.append(fault)
        node.otherwise = answer(make_image((7, 7, 7)))
    engines = pool(*pair)
    assert (await edit(engines)).getpixel((0, 0)) == (7, 7, 7)
    statistics = engines.get_statistics()
    await engines.close()
    assert (statistics.answered, balanced(statistics)) == (1, True)
    # One retry where the other node was not known yet, else one on each.
    assert 1 <= statistics.retries == sum(len(node.forms) for node in pair) - 1 <= 2


async def test_a_node_that_is_away_costs_nothing_but_a_look(nodes: Callable[[int], list[FakeNode]]) -> None:
    (here,) = nodes(1)
    engines = pool(FakeNode(), here)
    await asyncio.gather(*(edit(engines) for _ in range(5)))
    statistics = engines.get_statistics()
    await engines.close()
    assert [node.answered for node in statistics.nodes] == [0, 5]
    assert "cannot connect" in statistics.nodes[0].last_error
    assert statistics.nodes[0].state == "open"


async def test_a_busy_node_is_left_for_as_long_as_it_says(nodes: Callable[[int], list[FakeNode]]) -> None:
    (node,) = nodes(1)
    node.script.append(status(503, "queue full", retry_after="0.4"))
    engines = pool(node)
    await edit(engines)
    statistics = engines.get_statistics()
    await engines.close()
    assert node.times[1] - node.times[0] >= 0.4
    assert (statistics.nodes[0].busy, statistics.nodes[0].failed, statistics.nodes[0].limit < 4) == (1, 0, True)


async def test_a_refusal_is_for_the_model_and_is_not_tried_again(nodes: Callable[[int], list[FakeNode]]) -> None:
    pair = nodes(2)
    for node in pair:
        node.otherwise = status(422, "there is no cat in the image: use other words")
    engines = pool(*pair)
    with pytest.raises(ToolError, match="use other words"):
        await edit(engines)
    statistics = engines.get_statistics()
    await engines.close()
    assert sum(len(node.forms) for node in pair) == 1
    assert (statistics.refused, balanced(statistics)) == (1, True)
    assert all(node.state != "open" for node in statistics.nodes)


async def test_a_request_that_fails_everywhere_ends(nodes: Callable[[int], list[FakeNode]]) -> None:
    pair = nodes(2)
    for node in pair:
        node.otherwise = status(500, "boom")
    engines = pool(*pair)
    with pytest.raises(ToolError, match=r"failed 4 times.*boom"):
        await edit(engines)
    await engines.close()
    assert sum(len(node.forms) for node in pair) == 4


async def test_a_pool_that_reaches_no_server_says_so_long_before_its_timeout() -> None:
    pair = FakeNode(), FakeNode()
    engines = pool(*pair, timeout=600, settings=replace(QUICK, unreached_seconds=0.3))
    with pytest.raises(ToolOutage, match=r"no image server can be reached .*cannot connect") as told:
        async with asyncio.timeout(30):
            await edit(engines)
    with pytest.raises(ToolOutage, match="no image server can be reached"):
        async with asyncio.timeout(30):
            await engines.editor.maker()  # type: ignore[attr-defined]
    statistics = engines.get_statistics()
    await engines.close()
    assert all(f"{node.address[0]}:{node.address[1]}" in str(told.value) for node in pair)
    assert (statistics.timed_out, balanced(statistics)) == (2, True)


async def test_a_server_that_answered_before_may_take_the_time_of_a_restart() -> None:
    node = FakeNode()
    engines = pool(node, settings=replace(QUICK, unreached_seconds=0.05))
    with node.up():
        await edit(engines)
    waiting = asyncio.create_task(edit(engines))
    await until(lambda: engines.pool.nodes[0].missed_checks > 2)
    assert not waiting.done()
    with node.up():
        assert (await waiting).size == (8, 6)
        await engines.close()


async def test_all_down_ends_at_the_timeout_where_that_is_shorter() -> None:
    engines = pool(FakeNode(), FakeNode(), timeout=0.6)
    with pytest.raises(ToolOutage, match=r"no image server answered within 0.6 s .*cannot connect"):
        await edit(engines)
    statistics = engines.get_statistics()
    await engines.close()
    assert (statistics.timed_out, balanced(statistics)) == (1, True)


async def test_a_server_that_never_answers_ends_at_the_timeout(nodes: Callable[[int], list[FakeNode]]) -> None:
    (node,) = nodes(1)
    node.otherwise = answer(after=60)
    engines = pool(node, timeout=0.5)
    with pytest.raises(ToolError, match="no image server answered"):
        await edit(engines)
    await engines.close()
    assert balanced(engines.get_statistics())


async def test_requests_wait_for_a_server_that_comes() -> None:
    late = FakeNode()
    engines = pool(late)
    waiting = asyncio.create_task(edit(engines))
    await until(lambda: engines.get_statistics().nodes[0].state == "open")
    with late.up():
        assert (await waiting).size == (8, 6)
        await engines.close()


async def test_requests_wait_for_a_server_that_is_not_ready(nodes: Callable[[int], list[FakeNode]]) -> None:
    (node,) = nodes(1)
    node.health = 503
    engines = pool(node)
    waiting = asyncio.create_task(edit(engines))
    await until(lambda: engines.get_statistics().nodes[0].state == "open")
    assert node.forms == []
    node.health = 200
    await waiting
    await engines.close()


@pytest.mark.parametrize("odd", [Response("busy", 503), Response("{}", 429), Response(b'{"data": null}'), ValueError()])
async def test_a_health_check_that_goes_wrong_is_made_again(odd: Response | Exception) -> None:
    class Odd(FakeNode):
        asked = 0

        async def models(self, request: Request) -> Response:
            self.asked += 1
            if self.asked > 1:
                return await super().models(request)
            if isinstance(odd, Exception):
                raise odd
            return odd

    odd_node = Odd()
    with odd_node.up():
        engines = pool(odd_node)
        await asyncio.wait_for(edit(engines), 5)
        await engines.close()
    assert odd_node.asked > 1


async def test_a_health_check_that_nobody_waited_for_says_nothing_of_what_a_node_offers() -> None:
    go = threading.Event()

    class Slow(FakeNode):
        async def models(self, request: Request) -> Response:
            while not go.is_set():
                await asyncio.sleep(0.005)
            return await super().models(request)

    with FakeNode(capabilities=("edit",)).up() as quick, Slow(capabilities=("detect",)).up() as slow:
        slow.otherwise = says({"data": []})
        engines = pool(quick, slow)
        await edit(engines)
        finding = engines.detector.detect(make_image(), "no such word", box_threshold=0.3, text_threshold=0.3)
        request = asyncio.ensure_future(finding)
        await until(lambda: engines.get_statistics().pending == 1)
        go.set()
        # The embedded detector, which stands in where no server detects, would refuse the words.
        assert list(await request) == []
        await engines.close()


async def test_requests_leave_a_node_that_fell_silent(nodes: Callable[[int], list[FakeNode]]) -> None:
    pair = nodes(2)
    go = threading.Event()
    for node in pair:
        node.otherwise = held(go)
    quick = {"open_seconds": 0.02, "health_seconds": 0.05, "probe_seconds": 0.2}
    settings = PoolSettings(initial_limit=2, hedge_factor=0, **quick)  # type: ignore[arg-type]
    engines = pool(*pair, settings=settings)
    requests = [asyncio.create_task(edit(engines)) for _ in range(4)]
    await until(lambda: all(node.running == 2 for node in pair))
    # A machine that loses its power closes no connections: it says nothing any more.
    pair[0].silent = True
    await until(lambda: pair[0].hung_up == 2)
    go.set()
    await asyncio.gather(*requests)
    statistics = engines.get_statistics()
    await engines.close()
    assert [node.answered for node in statistics.nodes] == [0, 4]
    assert balanced(statistics)


async def test_requests_stay_on_a_silent_node_when_there_is_no_other(nodes: Callable[[int], list[FakeNode]]) -> None:
    (node,) = nodes(1)
    go = threading.Event()
    node.otherwise = held(go)
    engines = pool(node, settings=PoolSettings(open_seconds=0.01, health_seconds=0.01, probe_seconds=0.05))
    request = asyncio.create_task(edit(engines))
    await until(lambda: node.running == 1)
    node.silent = True
    await until(lambda: engines.pool.nodes[0].missed_checks > 4)
    go.set()
    await request
    await engines.close()
    assert len(node.forms) == 1


async def test_closing_the_pool_ends_what_waits(nodes: Callable[[int], list[FakeNode]]) -> None:
    (node,) = nodes(1)
    node.otherwise = answer(after=30)
    engines = pool(node, settings=PoolSettings(initial_limit=1))
    requests = [asyncio.create_task(edit(engines)) for _ in range(3)]
    await until(lambda: node.running == 1)
    await engines.close()
    for request in requests:
        with pytest.raises(ToolError, match="was closed"):
            await request
    assert balanced(engines.get_statistics())


async def test_a_restarted_server_may_be_another_one() -> None:
    node = FakeNode(capabilities=("edit",))
    engines = pool(node, settings=PoolSettings(health_seconds=0.01))
    with node.up():
        await edit(engines)
    node.capabilities = ("detect",)
    with node.up():
        node.otherwise = says({"data": []})
        found = await engines.detector.detect(make_image(), "cat", box_threshold=0.3, text_threshold=0.3)
        assert list(found) == []
        await engines.close()


async def test_a_slow_request_is_tried_on_an_idle_node_and_the_quicker_answer_counts(
    nodes: Callable[[int], list[FakeNode]],
) -> None:
    pair = nodes(2)
    engines = pool(*pair, settings=PoolSettings(hedge_after=4, hedge_share=1.0))
    for _ in range(6):
        await edit(engines)
    for node in pair:
        node.script.append(answer(after=30) if node is min(pair, key=lambda n: len(n.forms)) else answer())
    for node in pair:
        node.otherwise = answer(make_image((5, 5, 5)))
    images = [await edit(engines) for _ in range(2)]
    statistics = engines.get_statistics()
    await engines.close()
    assert len(images) == 2
    # On a busy machine an ordinary request may be slow enough to be tried twice, too.
    assert 1 <= sum(node.hedges_won for node in statistics.nodes) <= statistics.hedges
    assert (statistics.answered, sum(node.cancelled for node in statistics.nodes)) == (8, statistics.hedges)
    assert balanced(statistics)
    assert 1 <= sum(node.hung_up for node in pair) <= statistics.hedges


async def test_the_rate_limit_spaces_all_attempts_of_the_pool(nodes: Callable[[int], list[FakeNode]]) -> None:
    pair = nodes(2)
    pair[0].script.append(status(500))
    engines = pool(*pair, max_requests_per_minute=600)
    await asyncio.gather(*(edit(engines) for _ in range(6)))
    await engines.close()
    times = sorted(pair[0].times + pair[1].times)
    assert len(times) == 7
    assert times[-1] - times[0] >= 0.55


async def test_cancelling_gives_everything_back(nodes: Callable[[int], list[FakeNode]]) -> None:
    (node,) = nodes(1)
    node.otherwise = answer(after=30)
    engines = pool(node, settings=PoolSettings(initial_limit=2))
    requests = [asyncio.create_task(edit(engines)) for _ in range(6)]
    await until(lambda: node.running == 2)
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    statistics = engines.get_statistics()
    assert (statistics.cancelled, statistics.waiting, balanced(statistics)) == (6, 0, True)
    node.otherwise = answer()
    await edit(engines)
    await engines.close()
    assert node.hung_up == 2


async def test_waiting_requests_are_served_in_their_order(nodes: Callable[[int], list[FakeNode]]) -> None:
    (node,) = nodes(1)
    engines = pool(node, settings=PoolSettings(initial_limit=1, max_limit=1))
    await edit(engines)
    go = threading.Event()
    node.script.append(held(go))
    requests = []
    for index in range(8):
        requests.append(asyncio.create_task(edit(engines, str(index))))
        await until(lambda: node.running + engines.get_statistics().waiting == len(requests))
    go.set()
    await asyncio.gather(*requests)
    await engines.close()
    assert [form["prompt"] for form in node.forms[1:]] == [str(index) for index in range(8)]


async def test_a_wrong_key_is_told_at_once() -> None:
    class Locked(FakeNode):
        async def models(self, _: Request) -> Response:
            return Response("{}", 401)

    with Locked().up() as node:
        engines = pool(node)
        with pytest.raises(ConfigError, match="api_key_env"):
            await edit(engines)
        await engines.close()


async def test_a_server_of_unknown_kind_is_told_at_once() -> None:
    with FakeNode("somebody else").up() as node:
        engines = pool(node)
        with pytest.raises(ConfigError, match="name its adapter"):
            await edit(engines)
        await engines.close()


async def test_a_server_that_does_not_know_its_name_is_an_error_that_gives_the_option() -> None:
    with FakeNode().up() as node:
        node.otherwise = status(421, "start it with --allowed-hosts images")
        engines = pool(node)
        with pytest.raises(ConfigError, match=r"does not answer to this name .*--allowed-hosts images"):
            await edit(engines)
        await engines.close()


async def test_one_unusable_node_does_not_stop_the_others(nodes: Callable[[int], list[FakeNode]]) -> None:
    pair = nodes(2)
    pair[0].otherwise = status(401, "bad key")
    engines = pool(*pair)
    await asyncio.gather(*(edit(engines) for _ in range(6)))
    statistics = engines.get_statistics()
    await engines.close()
    assert (statistics.answered, statistics.nodes[1].answered) == (6, 6)


def test_one_pool_serves_one_event_loop_after_another(nodes: Callable[[int], list[FakeNode]]) -> None:
    engines = pool(*nodes(2), max_requests_per_minute=6000)
    for _ in range(3):
        asyncio.run(_several(engines))
    assert engines.get_statistics().answered == 12


async def _several(engines: RemoteEngines) -> None:
    await asyncio.gather(*(edit(engines) for _ in range(4)))
    await engines.close()


async def test_nothing_runs_while_there_are_no_requests(nodes: Callable[[int], list[FakeNode]]) -> None:
    engines = pool(*nodes(2))
    await edit(engines)
    await asyncio.sleep(0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert {task for task in others if "agentfly" in repr(task)} == set()
    await engines.close()


async def test_statistics_as_json_and_as_a_table(
    nodes: Callable[[int], list[FakeNode]], capsys: pytest.CaptureFixture[str]
) -> None:
    engines = pool(*nodes(1))
    await edit(engines)
    statistics = json.loads(engines.get_statistics().to_json())
    engines.print_statistics()
    await engines.close()
    assert statistics["nodes"][0]["operations"] == ["detect", "edit", "inpaint"]
    assert statistics["nodes"][0]["p50"] > 0
    assert "1 answered" in capsys.readouterr().out


def test_a_pool_has_a_node() -> None:
    with pytest.raises(ConfigError, match="at least one node"):
        remote_engines([])


def test_addresses() -> None:
    engines = remote_engines(["localhost:8000", ("::1", 8001), NodeConfig("https://images.example/")])
    assert [node.url for node in engines.pool.nodes] == [
        "http://localhost:8000",
        "http://[::1]:8001",
        "https://images.example",
    ]
