"""Whatever a user does to the weights, the engines compute what the reference does."""

import copy
import gc
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune

from elmo_hf import ElmoConfig, ElmoModel, use_engine
from elmo_hf.model import engine_copies
from elmo_hf.model.engine_copies import KeptCopy

ENGINES = [None, "gpu"]  # the engine that is chosen on a CPU, and the other one for inference
WEIGHTS = [
    "layers.0.forward_lstm.recurrent_map.weight",
    "layers.1.backward_lstm.input_map.weight",
    "layers.0.backward_lstm.output_map.weight",
    "layers.1.forward_lstm.input_map.bias",
    "embeddings.highways.0.transform.weight",
    "embeddings.projection.weight",
]


def make(**changes):
    torch.manual_seed(0)
    settings = {"cell_dim": 64, "projection_dim": 32, "filters": [[1, 16], [2, 32], [3, 48]]}
    model = ElmoModel(ElmoConfig(**{**settings, **changes})).eval()
    for name, parameter in model.named_parameters():
        if "input_map" in name or "projection" in name:
            parameter.data *= 4
        if "bias" in name:
            parameter.data += torch.rand_like(parameter)
    return model


def words(batch=2, length=5, seed=0):
    torch.manual_seed(seed)
    return torch.randint(1, 262, (batch, length, 50))


def run(model, ids, engine=None):
    with torch.no_grad():
        if engine is None:
            return model(ids).last_hidden_state.clone()
        with use_engine(engine):
            return model(ids).last_hidden_state.clone()


def assert_is_seen(model, ids, engine, before):
    found, expected = run(model, ids, engine), run(model, ids, "reference")
    assert not torch.allclose(expected, before, atol=2e-3)  # the change changes something
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def change_in_place(weight, owner, name):
    with torch.no_grad():
        weight[: len(weight) // 2] += 1


def change_in_inference_mode(weight, owner, name):
    with torch.inference_mode():
        weight[: len(weight) // 2] += 1


def change_through_a_detached_view(weight, owner, name):
    weight.detach()[: len(weight) // 2] += 1


def change_memory(weight, owner, name):
    weight.data = weight.data + 1


def change_memory_twice(weight, owner, name):
    for _ in range(4):  # the memory of the first may come back with the third
        weight.data = weight.data + 1


def change_parameter(weight, owner, name):
    setattr(owner, name, nn.Parameter(weight.detach() + 1))


def change_parameter_twice(weight, owner, name):
    for _ in range(4):
        setattr(owner, name, nn.Parameter(getattr(owner, name).detach() + 1))


def change_by_load_state_dict(weight, owner, name):
    state = {key: value + 1 for key, value in owner.state_dict().items()}
    owner.load_state_dict(state)


def change_by_assigning_a_state_dict(weight, owner, name):
    state = {key: value + 1 for key, value in owner.state_dict().items()}
    owner.load_state_dict(state, assign=True)


def change_by_pruning(weight, owner, name):
    prune.random_unstructured(owner, name, 0.5)


def change_by_finished_pruning(weight, owner, name):
    prune.random_unstructured(owner, name, 0.5)
    prune.remove(owner, name)


def change_by_parametrization(weight, owner, name):
    class Shifted(nn.Module):
        def forward(self, x):
            return x + 1

    parametrize.register_parametrization(owner, name, Shifted())


def change_by_weight_norm(weight, owner, name):
    parametrizations.weight_norm(owner, name, dim=None)
    with torch.no_grad():
        getattr(owner.parametrizations, name).original0.mul_(1.5)


def change_by_merging(weight, owner, name):
    weight.data += torch.rand_like(weight)  # what PEFT's merge does


def change_whole_numpy_view(weight, owner, name):
    view = weight.detach().numpy()
    view += 1


def change_by_optimizer(weight, owner, name):
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], 0.5).step()
    weight.grad = None


# A hook, or another class: engines that read the weights refuse to be forced.
REFUSED = ("by_pruning", "by_parametrization", "by_weight_norm")
CHANGES = {name[7:]: value for name, value in globals().copy().items() if name[:7] == "change_"}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_a_weight_are_seen_at_once(change, engine):
    names = [WEIGHTS[0], WEIGHTS[3], *WEIGHTS[4:6]] if engine is None else WEIGHTS[:1]
    for key in names if "norm" not in change else WEIGHTS[:1]:
        model, ids = make(), words()
        before = run(model, ids, engine)
        owner, _, name = key.rpartition(".")
        owner = model.get_submodule(owner)
        CHANGES[change](getattr(owner, name), owner, name)
        assert_is_seen(model, ids, None if change in REFUSED else engine, before)


def write_entry(weight):
    weight.data.view(-1)[77] += 5


def write_row(weight):
    weight.data[5] = 1


def write_numpy_view(weight):
    weight.detach().numpy()[3, 4] += 5


def write_swapped_rows(weight):
    weight.data[[3, 7]] = weight.data[[7, 3]]


WRITES = [write_entry, write_row, write_numpy_view, write_swapped_rows]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__[6:])
def test_uncounted_writes_are_seen_by_large_calls_and_after_reset_engines(write, engine):
    weights = [name for name in WEIGHTS if name.endswith("weight")]
    for name in weights[::2] if engine is None else weights[:1]:
        model, few, many = make(), words(), words(16, 33)
        before = run(model, few, engine), run(model, many, engine)
        write(model.get_parameter(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(
                run(model, many, engine), run(model, many, "reference"), atol=2e-4, rtol=0
            )
        model = make()
        run(model, few, engine)
        write(model.get_parameter(name))
        model.reset_engines()
        found = run(model, few, engine)
        torch.testing.assert_close(found, run(model, few, "reference"), atol=2e-4, rtol=0)
        assert not torch.equal(found, before[0])


def test_an_uncounted_write_that_small_calls_missed_is_reported():
    model, ids = make(), words()
    run(model, ids)
    model.layers[0].forward_lstm.recurrent_map.weight.data[11, 13] += 5
    with pytest.warns(UserWarning, match=r"may have been computed .* model\.reset_engines\(\)"):
        for _ in range(engine_copies.WORDS_PER_COMPARISON // 10 + 2):
            found = run(model, ids)
    torch.testing.assert_close(found, run(model, ids, "reference"), atol=2e-4, rtol=0)


def test_weights_without_a_counter_are_compared_in_full_every_time():
    with torch.inference_mode():
        born_in_inference_mode = make()
    shared = make().share_memory()
    for model in (born_in_inference_mode, shared):
        ids = words()
        with torch.inference_mode():
            before = run(model, ids)
            model.layers[0].forward_lstm.recurrent_map.weight.data[11] = 3
            model.embeddings.projection.weight.data[3, 4] += 5
            assert_is_seen(model, ids, None, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_functional_call_gets_the_tensors_of_each_call(engine):
    model, ids = make(), words()
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    expected = run(model, ids, engine)
    for name in WEIGHTS[:2] + WEIGHTS[4:6] if engine is None else WEIGHTS[:2]:
        for row in range(6):
            weight = own[name].clone()
            weight[row] = 3.0
            results = []
            for chosen in (engine, "reference"):
                with torch.no_grad(), use_engine(chosen or "cpu"):
                    given = {**own, name: weight}
                    results.append(functional_call(model, given, (ids,)).last_hidden_state)
            torch.testing.assert_close(*results, atol=2e-4, rtol=0)
            del weight, given
    assert torch.equal(run(model, ids, engine), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_functional_call_with_another_models_parameters(engine):
    model, ids = make(), words()
    run(model, ids, engine)
    for scale in (0.5, 1.5):
        other = make()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(scale)
        with torch.no_grad(), use_engine(engine or "cpu"):
            found = functional_call(model, dict(other.named_parameters()), (ids,))
        expected = run(other, ids, "reference")
        torch.testing.assert_close(found.last_hidden_state, expected, atol=2e-4, rtol=0)
        del other, found


def test_two_parameters_that_share_memory_are_told_apart():
    weight = nn.Parameter(torch.zeros(3, 4))
    cache, made = KeptCopy(), []
    cache.get([weight], lambda: made.append(1), 1)
    other = nn.Parameter(weight.data)
    cache.get([other], lambda: made.append(1), 1)
    assert len(made) == 2


def test_copies_are_dropped_only_if_a_model_moves():
    model, ids = make(), words()
    expected = run(model, ids)
    kept = [model.embeddings._copies, *(m._copies for m in model.modules() if hasattr(m, "maps"))]
    copies = [cache.peek() for cache in kept]
    assert len(kept) == 5 and None not in copies
    model.to("cpu").float().eval().requires_grad_(False)
    assert [cache.peek() for cache in kept] == copies
    memory = weakref.ref(model.layers[0].forward_lstm.input_map.weight.untyped_storage())
    model.to(torch.bfloat16)
    gc.collect()
    assert [cache.peek() for cache in kept] == [None] * 5 and memory() is None
    run(model, ids)
    model.to("meta")
    assert [cache.peek() for cache in kept] == [None] * 5
    assert expected.shape == run(model, ids.to("meta")).shape


def test_a_word_table_as_large_as_a_vocabulary_is_not_read_at_every_comparison(monkeypatch):
    model, ids = make(word_vocab_size=30, word_embedding_dim=6), words(16, 40)
    word_ids = torch.randint(1, 30, (16, 40))
    with torch.no_grad():
        model(ids, word_input_ids=word_ids)
    table = model.embeddings.word_embeddings.weight
    entry = model.embeddings._copies._entry
    assert all(reference() is not table for reference in entry._parameters)
    with torch.no_grad(), model.embeddings.word_cache():
        model(ids, word_input_ids=word_ids)
        with torch.no_grad():
            table[3:] += 1
        found = model(ids, word_input_ids=word_ids).last_hidden_state
        with use_engine("reference"):
            expected = model(ids, word_input_ids=word_ids).last_hidden_state
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_overlapping_word_caches_end_with_the_last():
    embeddings = make().embeddings
    first, second = embeddings.word_cache(5), embeddings.word_cache(7)
    first.__enter__(), second.__enter__()
    assert embeddings._copies.max_words == 7
    first.__exit__(None, None, None)
    assert embeddings._copies.max_words == 7
    assert copy.deepcopy(embeddings)._copies.max_words == 0
    second.__exit__(None, None, None)
    assert embeddings._copies.max_words == 0


@pytest.mark.slow
def test_threads_that_share_a_model_get_the_right_vectors():
    model = make()
    batches = [words(3, 7, seed) for seed in range(8)]
    expected = [run(model, ids, "reference") for ids in batches]
    model.reset_engines()
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        return [run(model, ids) for _ in range(2) for ids in batches[number:] + batches[:number]]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for number, found in enumerate(results):
        for one, wanted in zip(found, (expected[number:] + expected[:number]) * 2, strict=True):
            torch.testing.assert_close(one, wanted, atol=2e-4, rtol=0)
