"""Two pieces of work at once: results, modes, threads, errors, forks."""

import os
import threading

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.model import engine_choice
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


def test_a_thread_keeps_its_number_whatever_another_sets():
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
    torch.set_num_threads(1)
    changed.set()
    thread.join()
    assert seen == [2]


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


def test_a_lone_sentence_and_training_have_the_cores_to_themselves(monkeypatch):
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


def test_helpers_may_be_dismissed_while_they_are_asked_for():
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_makes_threads_of_its_own():
    assert run_side_by_side(abs, (-1,), (-2,)) == (1, 2)
    if (child := os.fork()) == 0:
        os._exit(0 if run_side_by_side(abs, (-1,), (-2,)) == (1, 2) else 1)
    assert os.waitpid(child, 0)[1] == 0
