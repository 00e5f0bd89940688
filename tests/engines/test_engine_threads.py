"""Two pieces of work at once: results, modes, threads, errors, forks."""

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.model import engine_choice, engine_threads
from elmo_hf.model.engine_cpu import CpuLstm
from elmo_hf.model.engine_threads import keep_threads, rest_alone, run_side_by_side


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_both_run_at_once_on_half_of_the_threads_each():
    meeting = threading.Barrier(2, timeout=10)

    def work(number):
        meeting.wait()  # nobody comes alone
        return number, torch.get_num_threads(), threading.get_ident()

    (one, half, here), (two, other_half, there) = run_side_by_side(work, (1,), (2,))
    assert (one, half, two, other_half) == (1, 2, 2, 2)
    assert here == threading.get_ident() != there
    assert torch.get_num_threads() == 4


def number_in_a_new_thread():
    """What `torch.set_num_threads` set last anywhere, which new threads begin with."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.fixture(params=["openmp", "torch"])
def way(request, monkeypatch):
    """How a thread's number is set: by OpenMP, or by torch where OpenMP cannot be reached."""
    if request.param == "torch":
        monkeypatch.setattr(engine_threads, "_find_own_number", lambda: None)
    elif engine_threads._find_own_number() is None:
        pytest.skip("torch runs on no OpenMP that can be reached")


def test_a_thread_keeps_its_number_and_changes_no_other_thread_s(way):
    seen = []
    ready, changed = threading.Event(), threading.Event()

    def work():
        keep_threads(2)
        ready.set()
        changed.wait(10)
        torch.ones(2).add(1)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait(10)
    assert torch.get_num_threads() == number_in_a_new_thread() == 4
    torch.set_num_threads(3)
    changed.set()
    thread.join()
    assert seen == [2]
    assert torch.get_num_threads() == number_in_a_new_thread() == 3


def test_threads_that_start_or_set_their_number_meanwhile_are_left_alone(way):
    def work(sets):
        if not sets:
            return number_in_a_new_thread()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(torch.set_num_threads, 3).result()

    assert run_side_by_side(work, (False,), (False,)) == (4, 4)
    run_side_by_side(work, (False,), (True,))
    assert (torch.get_num_threads(), number_in_a_new_thread()) == (4, 3)


def test_eight_threads_with_staggered_requests_keep_their_numbers():
    barrier = threading.Barrier(8, timeout=30)

    def serve(number):
        barrier.wait()
        for _ in range(5):
            time.sleep(number * 1e-3)
            run_side_by_side(time.sleep, (2e-3,), (3e-3,))
        return torch.get_num_threads()

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(serve, range(8))] == [4] * 8
    assert torch.get_num_threads() == number_in_a_new_thread() == 4


def test_a_second_pair_runs_alone_while_the_first_is_under_way():
    begun, done = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_side_by_side, lambda: begun.set() or done.wait(30), (), ())
        begun.wait(30)
        work = lambda: (torch.get_num_threads(), threading.get_ident())  # noqa: E731
        assert run_side_by_side(work, (), ()) == ((4, threading.get_ident()),) * 2
        done.set()
        assert first.result() == (True, True)
    assert len(set(run_side_by_side(threading.get_ident, (), ()))) == 2


def test_both_see_the_caller_s_context_variables():
    variable = contextvars.ContextVar("variable", default="of the process")
    variable.set("of the caller")
    assert run_side_by_side(variable.get, (), ()) == ("of the caller",) * 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_both_run_in_the_caller_s_gradient_mode(mode):
    def modes():
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with mode():
        assert run_side_by_side(modes, (), ()) == (modes(), modes())


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_either_reaches_the_caller_and_leaves_the_threads(failing):
    def work(number):
        if number == failing:
            raise KeyError(number)

    with pytest.raises(KeyError):
        run_side_by_side(work, (0,), (1,))
    assert torch.get_num_threads() == 4


def test_both_directions_give_what_they_give_one_after_the_other(monkeypatch):
    torch.manual_seed(0)
    config = ElmoConfig(cell_dim=24, projection_dim=12, filters=[[1, 4], [2, 8]])
    model, input_ids = ElmoModel(config).eval(), torch.randint(1, 262, (3, 9, 50))
    seen, run = set(), CpuLstm.run

    def forward(self, *given, **options):
        seen.add((self.settings.reverse, threading.get_ident() == threading.main_thread().ident))
        return run(self, *given, **options)

    monkeypatch.setattr(CpuLstm, "run", forward)
    with torch.no_grad():
        side_by_side = model(input_ids, output_hidden_states=True).hidden_states
        torch.set_num_threads(1)
        assert seen == {(False, True), (True, False)}
        alone = model(input_ids, output_hidden_states=True).hidden_states
    for found, expected in zip(side_by_side, alone, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def helpers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("elmo")]


def test_single_sentences_and_training_run_without_the_helper_thread(monkeypatch):
    monkeypatch.setattr(engine_choice, "SMALL_LSTM", 0)
    config = ElmoConfig(cell_dim=24, projection_dim=12, filters=[[1, 4], [2, 8]])
    model, input_ids = ElmoModel(config).eval(), torch.randint(1, 262, (3, 9, 50))
    for learns in (False, True):
        with torch.no_grad():
            model(input_ids)
        resting = helpers()
        assert resting
        with torch.set_grad_enabled(learns):
            model(input_ids if learns else input_ids[:1])
        for thread in resting:
            thread.join(10)
        assert not helpers()


@pytest.mark.slow
def test_helpers_may_be_dismissed_while_in_use():
    stop = threading.Event()

    def dismiss():
        while not stop.is_set():
            rest_alone()

    thread = threading.Thread(target=dismiss)
    thread.start()
    try:
        for i in range(200):
            assert run_side_by_side(abs, (i,), (-i,)) == (i, i)
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_a_call_while_the_interpreter_ends_runs_alone():
    script = f"""
import atexit, runpy, torch
run_side_by_side = runpy.run_path({engine_threads.__file__!r})["run_side_by_side"]
torch.set_num_threads(2)
print(run_side_by_side(abs, (-1,), (-2,)))
atexit.register(lambda: print(run_side_by_side(abs, (-3,), (-4,))))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == ("(1, 2)\n(3, 4)\n", 0), ended.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("before", [lambda: run_side_by_side(abs, (-1,), (-2,)), rest_alone])
def test_a_forked_process_computes_on_one_thread(before):
    before()
    numbers = torch.ones(1 << 20)
    numbers.exp()  # on threads that the child does not have
    if (child := os.fork()) == 0:
        numbers.exp()
        expected = (1, 2) if torch.get_num_threads() == 1 else None
        os._exit(0 if run_side_by_side(abs, (-1,), (-2,)) == expected else 1)
    end = time.monotonic() + 20
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.01)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert torch.get_num_threads() == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_computes_first_keeps_its_threads():
    def fork():
        if (child := os.fork()) == 0:
            os._exit(torch.get_num_threads())
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with ThreadPoolExecutor(1) as pool:  # a thread that has computed nothing
        assert pool.submit(fork).result() == 4
