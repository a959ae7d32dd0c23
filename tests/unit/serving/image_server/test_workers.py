"""Workers crash, hang and disappear; what clients notice of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from agentfly.errors import ConfigError
from agentfly.serving.image_server.workers.dispatcher import Worker
from agentfly.serving.image_server.workers.process import visible_device
from agentfly.serving.settings import ConnectionLimits
from tests.unit.serving.image_server.running import PUPPET, Running, as_text, plain, running, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair() -> Iterator[Running]:
    """Two workers of two slots."""
    with running(**PUPPET, workers=2) as server:
        yield server


@pytest.fixture(autouse=True)
def all_ready(request: pytest.FixtureRequest) -> None:
    """Tests that use the pair find both of its workers idle and ready, whatever came before."""
    if "pair" in request.fixturenames:
        dispatcher = request.getfixturevalue("pair").server.dispatcher
        wait_for(lambda: all(worker.state == "ready" for worker in dispatcher.workers))


def test_request_of_a_crashed_worker_is_done_by_another(pair: Running, tmp_path: Path) -> None:
    before = pair.metric("retries_total")
    reply = pair.edit(f"die once {tmp_path / 'died'}")
    assert reply.status_code == 200
    assert pair.metric("retries_total") == before + 1
    wait_for(lambda: all(worker.ready is not None for worker in pair.server.dispatcher.workers))


def test_request_that_kills_every_worker_ends_with_500_and_the_server_lives(pair: Running) -> None:
    reply = pair.edit("die")
    assert (reply.status_code, "died twice" in reply.json()["error"]["message"]) == (500, True)
    assert pair.edit("invert").status_code == 200


def test_nothing_is_lost_when_a_busy_worker_is_killed(pair: Running) -> None:
    with ThreadPoolExecutor(8) as threads:
        replies = [threads.submit(pair.edit, "sleep 0.3") for _ in range(8)]
        busy = pair.server.dispatcher.workers[0]
        wait_for(lambda: busy.process is not None and len(busy.jobs) == 2)
        assert busy.process is not None
        os.kill(busy.process.pid, signal.SIGKILL)
        assert [reply.result().status_code for reply in replies] == [200] * 8


def test_deadline_in_a_worker_that_stops(pair: Running) -> None:
    restarts = [worker.restarts for worker in pair.server.dispatcher.workers]
    reply = pair.edit("sleep 30", timeout=0.3)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    wait_for(lambda: pair.server.dispatcher.running == 0)
    assert [worker.restarts for worker in pair.server.dispatcher.workers] == restarts


def test_worker_that_does_not_stop_is_restarted_and_its_other_request_survives() -> None:
    with running(**PUPPET, workers=1) as server, ThreadPoolExecutor(2) as threads:
        other = threads.submit(server.edit, "sleep 1.2")
        wait_for(lambda: server.server.dispatcher.running == 1)
        assert server.edit("hang 60", timeout=0.2).status_code == 504
        assert other.result().status_code == 200
        assert server.server.dispatcher.workers[0].restarts == 1


def test_worker_that_only_loses_requests_to_their_deadlines_is_restarted() -> None:
    with running(**PUPPET, workers=1, request_timeout=0.4) as server:
        worker = server.server.dispatcher.workers[0]
        assert server.edit("sleep 30").status_code == 504
        assert worker.restarts == 0
        assert server.edit("sleep 30").status_code == 504
        wait_for(lambda: worker.restarts == 1 and worker.ready is not None)
        assert server.edit("invert").status_code == 200


def test_full_queue_answers_503_with_retry_after() -> None:
    with running(**PUPPET, worker_slots=1, max_queue=1) as server, ThreadPoolExecutor(2) as threads:
        dispatcher = server.server.dispatcher
        first = threads.submit(server.edit, "sleep 0.8")
        wait_for(lambda: dispatcher.running == 1)
        second = threads.submit(server.edit, "invert")
        wait_for(lambda: dispatcher.waiting == 1)
        third = server.edit("invert")
        assert (third.status_code, third.json()["error"]["code"]) == (503, "queue_full")
        assert 1 <= int(third.headers["retry-after"]) <= 60
        assert (first.result().status_code, second.result().status_code) == (200, 200)


def test_several_results_get_room_together_or_not_at_all() -> None:
    with running(**PUPPET, worker_slots=1, max_queue=2) as server:
        body = {"prompt": "a", "n": 4, "size": "8x8"}
        assert httpx.post(f"{server.url}/v1/images/generations", json=body).status_code == 503
        assert server.server.dispatcher.waiting == 0
        body["n"] = 3
        assert len(httpx.post(f"{server.url}/v1/images/generations", json=body).json()["data"]) == 3


def test_deadline_in_the_queue() -> None:
    with running(**PUPPET, worker_slots=1) as server, ThreadPoolExecutor(1) as threads:
        first = threads.submit(server.edit, "sleep 0.8")
        wait_for(lambda: server.server.dispatcher.running == 1)
        late = server.edit("invert", timeout=0.1)
        assert (late.status_code, "queue" in late.json()["error"]["message"]) == (504, True)
        assert first.result().status_code == 200


def test_client_that_hangs_up_frees_the_worker(pair: Running) -> None:
    dispatcher = pair.server.dispatcher
    before = pair.metric("cancelled_total")
    body = {"prompt": "sleep 30", "image": as_text(plain())}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{pair.url}/v1/images/edits", json=body, timeout=0.3)
    wait_for(lambda: dispatcher.running == 0)
    assert pair.metric("cancelled_total") == before + 1
    assert pair.metric("requests_total", operation="edit", status=499) == 1


def test_requests_that_end_as_soon_as_they_begin_cost_no_worker(pair: Running) -> None:
    restarts = pair.metric("worker_restarts_total")
    with ThreadPoolExecutor(12) as threads:
        replies = list(threads.map(lambda _: pair.edit("invert", timeout=1e-9), range(60)))
    assert {reply.status_code for reply in replies} == {504}
    wait_for(lambda: pair.server.dispatcher.running == 0)
    assert pair.edit("invert").status_code == 200
    assert pair.metric("worker_restarts_total") == restarts


def send_half(server: Running) -> socket.socket:
    """A client that announces a body and sends the beginning of it."""
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=20)
    kind = "Content-Type: application/json"
    head = f"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: 1000\r\n\r\n"
    client.sendall(head.encode() + b'{"prompt": "x')
    return client


def test_client_that_hangs_up_while_it_sends_is_no_fault_of_ours(
    pair: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def answered(status: int) -> float:
        return pair.metric("requests_total", operation="edit", status=status)

    before, faults = answered(499), answered(500)
    send_half(pair).close()
    wait_for(lambda: answered(499) == before + 1)
    assert answered(500) == faults
    assert "Traceback" not in caplog.text


def test_a_body_that_does_not_come_meets_the_deadline() -> None:
    with running(**PUPPET, request_timeout=0.5) as server, send_half(server) as client:
        reply = client.recv(4096)
    assert b" 504 " in reply.splitlines()[0]
    assert b"before its body was here" in reply


def test_clients_that_send_slowly_give_the_queue_back() -> None:
    limits = ConnectionLimits(body_seconds=0.3)
    with running(**PUPPET, max_queue=1, connections=limits) as server, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(send_half(server)) for _ in range(19)]
        wait_for(lambda: httpx.get(f"{server.url}/health").status_code == 200)
        for client in slow:
            assert b" 408 " in client.recv(4096).splitlines()[0]
        assert server.edit("invert").status_code == 200
        assert server.metric("requests_total", operation="edit", status=408) == 19


def test_a_full_server_counts_what_it_refuses() -> None:
    with running(**PUPPET, max_queue=1) as server, contextlib.ExitStack() as stack:
        for _ in range(19):
            stack.enter_context(send_half(server))

        def refused() -> bool:
            return server.edit("invert").status_code == 503

        wait_for(refused)
        assert server.metric("requests_total", operation="edit", status=503) >= 1


def test_work_is_spread_over_idle_workers(pair: Running) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        replies = [threads.submit(pair.edit, "hang 0.5") for _ in range(2)]
        assert [len(worker.jobs) for worker in _both_busy(pair)] == [1, 1]
        assert [reply.result().status_code for reply in replies] == [200, 200]
    assert time.monotonic() - started < 0.95


def _both_busy(pair: Running) -> list[Worker]:
    workers = pair.server.dispatcher.workers
    wait_for(lambda: sum(len(worker.jobs) for worker in workers) == 2, 5)
    return list(workers)


def test_shutting_down_answers_what_still_runs() -> None:
    replies: list[httpx.Response] = []
    with running(**PUPPET) as server:
        thread = threading.Thread(target=lambda: replies.append(server.edit("sleep 0.5")))
        thread.start()
        wait_for(lambda: server.server.dispatcher.running == 1)
    thread.join(20)
    assert replies[0].status_code == 200


@pytest.mark.parametrize(
    ("gpu", "visible", "expected"), [(1, None, "1"), (1, "4,6", "6"), (0, "GPU-abc, GPU-def", "GPU-abc")]
)
def test_gpu_ids_count_within_what_is_visible(gpu: int, visible: str | None, expected: str) -> None:
    assert visible_device(gpu, visible) == expected


def test_gpu_that_is_not_visible_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves 1 GPUs"):
        visible_device(1, "3")
