"""Muon and AdamW as one optimizer: which weights each trains, schedules, and saved states."""

import copy

import pytest
import torch
from helpers.pretraining import TINY

from elmo_hf import ElmoConfig, ElmoForPreTraining
from elmo_hf.pretraining.optimizer import MuonAdamW, split_parameters

MUON, ADAMW = {"lr": 0.02, "weight_decay": 0.1}, {"lr": 0.004, "betas": (0.9, 0.98)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ElmoForPreTraining(ElmoConfig(**TINY, lm_vocab_size=9))


def make_optimizer(model):
    matrices, others = split_parameters(model)
    return MuonAdamW(matrices, [{"params": others, "weight_decay": 0.01}], MUON, ADAMW)


def set_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def equal(one, other):
    return all(map(torch.equal, one.parameters(), other.parameters()))


def test_matrices_are_all_but_tables_convolutions_and_biases(model):
    matrices, others = ({id(w) for w in weights} for weights in split_parameters(model))
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert matrices | others == names.keys() and not matrices & others
    kinds = {names[weight].split(".", 2)[-1] for weight in others}
    assert {"char_embeddings.weight", "convolutions.0.weight"} <= kinds
    assert all("map" in n or "highway" in n or "projection" in n for n in map(names.get, matrices))


def test_it_steps_as_both_optimizers_do_and_schedules_change_both(model):
    twin = copy.deepcopy(model)
    optimizer = make_optimizer(model)
    matrices, others = split_parameters(twin)
    parts = (
        torch.optim.Muon(matrices, **MUON),
        torch.optim.AdamW(others, weight_decay=0.01, **ADAMW),
    )
    halve = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (optimizer, *parts)]
    for seed in range(3):
        set_gradients(model, seed), set_gradients(twin, seed)
        for one in (optimizer, *parts):
            one.step()
        for schedule in halve:
            schedule.step()
    assert equal(model, twin)
    assert optimizer.param_groups[0]["lr"] == 0.02 / 8


def test_a_saved_state_goes_on_bit_for_bit(model):
    optimizer = make_optimizer(model)
    set_gradients(model, 0)
    optimizer.step()
    twin = copy.deepcopy(model)
    resumed = make_optimizer(twin)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    set_gradients(model, 1), set_gradients(twin, 1)
    optimizer.step(), resumed.step()
    assert equal(model, twin)
