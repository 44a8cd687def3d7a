"""The batcher: passes are shared, nothing is lost, nothing waits for longer than it must."""

import threading
import time
from concurrent.futures import wait

import pytest

from editreward.groups import EditGroup
from editreward.scorers.batching import Batcher, BatcherEvents, Closed, DeadlineExceeded, QueueFull
from tests.helpers.scorers import ColourScorer, painted


def group(red, edits=1, instruction=""):
    return EditGroup([painted(1)], instruction, [painted(red)] * edits)


def rewards(futures):
    return [future.result(10).overall[0] for future in futures]


def test_many_single_requests_need_few_calls_and_get_their_own_answers():
    gate = threading.Event()
    scorer = ColourScorer(gate=gate)
    batcher = Batcher([scorer], max_edits=64, max_wait=0)
    first = batcher.submit([group(0)])
    while not scorer.calls:
        time.sleep(0.001)
    found = {}
    threads = [
        threading.Thread(target=lambda red: found.update({red: batcher.submit([group(red)])}), args=(2 * red,))
        for red in range(100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gate.set()
    assert {red: rewards(futures) for red, futures in found.items()} == {2 * red: [red] for red in range(100)}
    assert rewards(first) == [0] and scorer.calls == [1, 64, 36]
    batcher.close()


def test_a_free_scorer_waits_for_others_no_longer_than_it_may():
    scorer = ColourScorer()
    batcher = Batcher([scorer], max_edits=3, max_wait=0.2)
    started = time.monotonic()
    futures = batcher.submit([group(2)]) + batcher.submit([group(4)])
    assert rewards(futures) == [1, 2] and scorer.calls == [2]
    assert time.monotonic() - started >= 0.2
    started = time.monotonic()
    wait(batcher.submit([group(2)] * 3), 10)  # a full call does not wait
    assert time.monotonic() - started < 0.15 and scorer.calls == [2, 3]
    batcher.close()


def test_groups_that_keep_coming_share_a_call_until_the_first_has_waited_ten_times_as_long():
    batcher = Batcher([ColourScorer()], max_edits=64, max_wait=0.25)
    limits = []
    with batcher._changed:  # the scorer's thread stays outside
        for place in range(14):
            batcher.submit([group(2)])
            batcher._queue[-1].arrived = 0.2 * place
            limits.append(batcher._waits_until())
        batcher._queue.clear()
    assert limits[:3] == pytest.approx([0.25, 0.45, 0.65]) and limits[-2:] == [2.5, 2.5]
    batcher.close()


def test_groups_stay_whole_and_a_large_one_is_a_call_of_its_own():
    gate = threading.Event()
    scorer = ColourScorer(gate=gate)
    batcher = Batcher([scorer], max_edits=4, max_wait=0)
    futures = batcher.submit([group(2, edits) for edits in (1, 3, 2, 9, 1)])
    gate.set()
    assert [len(future.result(10).candidates) for future in futures] == [1, 3, 2, 9, 1]
    assert scorer.calls == [2, 1, 1, 1]
    batcher.close()


def test_a_full_queue_refuses_all_of_a_request_and_says_when_to_come_again():
    gate = threading.Event()
    scorer = ColourScorer(gate=gate)
    batcher = Batcher([scorer], max_queued=4, max_wait=0)
    running = batcher.submit([group(2)])
    while not scorer.calls:
        time.sleep(0.001)
    waiting = batcher.submit([group(2)] * 3)
    with pytest.raises(QueueFull) as error:
        batcher.submit([group(2)] * 2)
    assert 1 <= error.value.retry_after <= 30 and batcher.queued == 3
    gate.set()
    assert rewards(running + waiting) == [1] * 4
    assert rewards(batcher.submit([group(2)] * 9)) == [1] * 9  # larger than the queue, which is empty
    batcher.close()


def test_what_is_late_or_given_up_costs_no_call():
    dropped = []

    class Events(BatcherEvents):
        def dropped(self, groups):
            dropped.append(groups)

    gate = threading.Event()
    scorer = ColourScorer(gate=gate)
    batcher = Batcher([scorer], max_wait=0, events=Events())
    running = batcher.submit([group(2)], time.monotonic() + 0.05)
    while not scorer.calls:
        time.sleep(0.001)
    late = batcher.submit([group(4)], time.monotonic() + 0.05)
    (given_up,) = batcher.submit([group(6)])
    good = batcher.submit([group(8)], time.monotonic() + 30)
    assert given_up.cancel()
    time.sleep(0.06)
    gate.set()
    assert rewards(running + good) == [1, 4]  # what has begun is finished
    with pytest.raises(DeadlineExceeded):
        late[0].result(10)
    assert scorer.calls == [1, 1] and sum(dropped) == 2
    batcher.close()


def test_an_error_costs_only_the_group_that_it_belongs_to():
    class Fragile(ColourScorer):
        def __call__(self, groups):
            found = super().__call__(groups)
            if any(one.instruction == "break" for one in groups):
                raise ZeroDivisionError("broken")
            return found

    batcher = Batcher([Fragile()], max_wait=0.05)
    first, broken, last = batcher.submit([group(2), group(2, instruction="break"), group(4)])
    assert rewards([first, last]) == [1, 2]
    assert isinstance(broken.exception(10), ZeroDivisionError)
    assert batcher.is_alive
    batcher.close()


def test_replicas_share_the_queue():
    gate = threading.Event()
    scorers = [ColourScorer(gate=gate), ColourScorer(gate=gate)]
    batcher = Batcher(scorers, max_edits=1, max_wait=0)
    futures = batcher.submit([group(2)] * 2)
    while not all(scorer.calls for scorer in scorers):
        time.sleep(0.001)
    gate.set()
    assert rewards(futures) == [1, 1]
    batcher.close()


def test_closing_finishes_what_was_accepted():
    gate = threading.Event()
    batcher = Batcher([ColourScorer(gate=gate)], max_edits=1, max_wait=0)
    futures = batcher.submit([group(2)] * 5)
    threading.Timer(0.1, gate.set).start()
    batcher.close()
    assert rewards(futures) == [1] * 5 and not batcher.is_alive
    with pytest.raises(Closed):
        batcher.submit([group(2)])


def test_closing_with_a_limit_fails_what_is_left():
    gate = threading.Event()
    batcher = Batcher([ColourScorer(gate=gate)], max_edits=1, max_wait=0)
    futures = batcher.submit([group(2)] * 2)
    batcher.close(timeout=0.1)
    with pytest.raises(Closed):
        futures[1].result(10)
    gate.set()
    assert rewards(futures[:1]) == [1]
