"""Processes that watch each other, without jax: who is named, how soon, and who is not let in."""

from __future__ import annotations

import re
import signal
import socket
import time

import pytest

from tests.processes import Group, free_port

#: From the moment it happens; the machine may be busy.
SOON_S = 5.0
STEPS = 10_000


def waiting(processes: int, **told) -> Group:
    return Group("wait", processes, **{"steps": STEPS, **told})


def test_processes_that_are_done_wait_for_the_others_and_say_nothing():
    with waiting(3, steps=5) as group:
        group.wait(20)
    assert group.statuses == [0, 0, 0]
    assert group.errors == ["", "", ""]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_stops_the_others_which_name_it(victim):
    with waiting(3, at=3, victim=victim, act="kill") as group:
        group.wait(20)
    assert group.statuses[victim] == -signal.SIGKILL
    for process in {0, 1, 2} - {victim}:
        assert group.statuses[process] == 76
        who = rf"process {victim} \(host \S+, pid {group.pids[victim]}\)"
        kept = r"Start all processes again: they go on from the newest checkpoint, if there is one\."
        line = rf"error: {who} died without a word .*; process {process} stops too\. {kept}\n"
        assert re.fullmatch(line, group.errors[process])
        assert group.ended[process] - group.acted_at < SOON_S


@pytest.mark.parametrize("victim", [0, 1])
def test_a_hung_process_is_named_after_the_silence_limit(victim):
    with waiting(3, at=3, victim=victim, act="stop", silence_s=1.5) as group:
        group.wait(20, but=victim)
        for process in {0, 1, 2} - {victim}:
            assert group.statuses[process] == 76
            assert f"process {victim} (" in group.errors[process]
            assert "no sign of life" in group.errors[process]
            assert 1.0 < group.ended[process] - group.acted_at < 1.5 + SOON_S  # its last ping was a little before
        group.started[victim].send_signal(signal.SIGCONT)  # the machine is back: its run is over
        group.wait(20)
    assert group.statuses[victim] == 76


@pytest.mark.parametrize(
    ("victim", "act", "status", "told"),
    [
        (0, "fail", 2, "the recording has teeth"),
        (1, "crash", 1, "RuntimeError: a bug"),
    ],
)
def test_a_process_that_ends_with_an_error_tells_the_others(victim, act, status, told):
    with waiting(3, at=3, victim=victim, act=act) as group:
        group.wait(30)
    assert group.statuses[victim] == status
    assert told in group.errors[victim]
    for process in {0, 1, 2} - {victim}:
        assert group.statuses[process] == 76
        assert f"process {victim} (" in group.errors[process]
        assert f"ended with an error: {told}" in group.errors[process]
        assert group.ended[process] - group.acted_at < 2 * SOON_S


def test_each_process_with_the_same_error_tells_its_own():
    with waiting(3, at=3, victim="all", act="fail") as group:
        group.wait(30)
    assert group.statuses == [2, 2, 2]
    assert group.errors == ["error: the recording has teeth - call a dentist\n"] * 3


@pytest.mark.parametrize("victim", [0, 3])
def test_a_notice_to_one_stops_all_at_the_same_step(victim):
    with waiting(4, at=5, victim=victim, act="term") as group:
        group.wait(30)
    assert group.statuses == [0, 0, 0, 0]
    steps = {told["stopped"] for told in group.told("stopped")}
    assert len(steps) == 1
    assert len(group.told("stopped")) == 4
    assert min(steps) >= (9 if victim == 3 else 6)  # the fastest was far ahead when the slowest was told


def test_a_notice_after_the_last_step_of_another_stops_nobody():
    with waiting(2, at=29, victim=1, act="term", steps=30) as group:  # process 0 is done long before
        group.wait(30)
    assert group.statuses == [0, 0]
    assert not group.told("stopped")


def test_strangers_and_latecomers_change_nothing():
    port = free_port()
    with waiting(2, steps=60, port=port) as group:
        group.until_told("met")
        strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        strangers[0].sendall(b"GET / HTTP/1.0\r\n\r\n")
        strangers[1].sendall(b'{"hello": "somebody else"}\n')
        strangers[2].sendall(b"\x00\xff" * 5000)
        strangers[3].close()
        with waiting(2, port=port, only=[1]) as late:
            late.wait(20)
        assert late.statuses == [2]
        assert "the run has begun without it" in late.errors[0]
        group.wait(30)
        for stranger in strangers:
            stranger.close()
    assert group.statuses == [0, 0]
    assert group.errors == ["", ""]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({1: {"processes": 3}}, "as one of 3 processes, process 0 as one of 2"),
        ({1: {"process": 1, "same": {"seed": 2, "size": "S"}}}, "different configs (seed: 1 and 2)"),
    ],
    ids=["another number", "another config"],
)
def test_processes_that_do_not_belong_together_do_not_begin(changes, told):
    with waiting(2, same={"seed": 1, "size": "S"}, changes=changes) as group:
        group.wait(20)
    assert group.statuses == [2, 2]
    assert all(told in error for error in group.errors)


def test_two_processes_with_the_same_number_are_named():
    with waiting(3, changes={2: {"process": 1}}) as group:
        group.wait(20)
    assert group.statuses == [2, 2, 2]
    assert all("have the same number" in error and "process 1 (host" in error for error in group.errors)


def test_a_process_that_does_not_come_is_named_in_bounded_time():
    start = time.monotonic()
    with waiting(3, only=[0, 2], start_s=1.0) as group:
        group.wait(20)
    assert group.statuses == [2, 2]
    assert all("process 1 of 3 did not come within 1 s (here: process 0 (host" in error for error in group.errors)
    assert time.monotonic() - start < 10


def test_a_coordinator_that_does_not_answer_is_an_error_in_bounded_time():
    start = time.monotonic()
    with waiting(2, only=[1], start_s=1.0) as group:
        group.wait(20)
    assert group.statuses == [2]
    assert "process 1 of 2: nobody answers at 127.0.0.1:" in group.errors[0]
    assert "start process 0 on that host" in group.errors[0]
    assert time.monotonic() - start < 10


def test_a_port_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as other, waiting(2, port=other.getsockname()[1], only=[0]) as group:
        group.wait(20)
    assert group.statuses == [2]
    assert "cannot be used (Address already in use) - pass another port" in group.errors[0]


def test_a_process_that_dies_before_the_others_have_come_may_be_started_again():
    port = free_port()
    with waiting(3, port=port, only=[0, 1], steps=5) as group:
        time.sleep(1.0)
        group.started[1].kill()
        with waiting(3, port=port, only=[1, 2], steps=5) as others:
            others.wait(20)
        group.wait(20)
    assert others.statuses == [0, 0]
    assert group.statuses == [0, -signal.SIGKILL]
