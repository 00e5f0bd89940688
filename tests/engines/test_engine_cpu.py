# Copyright 2026 The elmo_hf developers
# SPDX-License-Identifier: Apache-2.0
import copy
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elmo_hf import ElmoConfig
from elmo_hf.model.engine_copies import KeptCopy
from elmo_hf.model.engine_cpu import (
    CpuLstm,
    _split_steps,
    find_cpu_obstacle,
)
from elmo_hf.model.engine_onednn import find_operators, multiply
from elmo_hf.model.engine_packing import Packing
from elmo_hf.model.engine_weights import LstmSettings, LstmWeights
from elmo_hf.model.layer_lstm import ElmoLstm

ERROR = {None: 2e-6, torch.bfloat16: 1.5e-2, "int8": 5e-2}
OPERATORS = ["plain", "onednn"] if find_operators(torch.float32) == "onednn" else ["plain"]
WIDTH, CELL, SIZES = 6, 10, {"projection_dim": 6, "cell_dim": 10}


def make_lstm(reverse=False, seed=0, scale=1.5, **options):
    """A random LSTM whose clips fire, in float32."""
    torch.manual_seed(seed)
    lstm = ElmoLstm(ElmoConfig(**{**SIZES, **options}), reverse)
    for parameter in lstm.parameters():
        torch.nn.init.normal_(parameter, std=scale / parameter.shape[-1] ** 0.5)
    return lstm


def weights_of(lstm):
    output_weight = None if lstm.output_map is None else lstm.output_map.weight
    maps = lstm.input_map, lstm.recurrent_map
    return LstmWeights(maps[0].weight, maps[0].bias, maps[1].weight, output_weight)


def settings_of(lstm, **options):
    return LstmSettings(lstm.cell_clip, lstm.projection_clip, lstm.reverse, **options)


def get(cache, lstm, words=1):
    weights, chosen = weights_of(lstm), settings_of(lstm)
    kept = [weight for weight in weights if weight is not None]
    return cache.get(kept, lambda: CpuLstm(weights, chosen), words, chosen)


def prepare(lstm, **options):
    return CpuLstm(weights_of(lstm), settings_of(lstm, **options))


def draw_inputs(lstm, mask, seed=1):
    generator = torch.Generator().manual_seed(seed)
    batch, words = mask.shape
    gates, width = lstm.input_map.weight.shape
    return (
        2 * torch.randn(batch, words, width, generator=generator),
        0.5 * torch.randn(batch, width, generator=generator),
        torch.randn(batch, gates // 4, generator=generator),
    )


def assert_near(results, expected, error):
    (outputs, state), (expected_outputs, expected_state) = results, expected
    for got, wanted in zip((outputs, *state), (expected_outputs, *expected_state), strict=True):
        assert got.shape == wanted.shape
        if wanted.numel():
            largest = wanted.abs().max().clamp_min(1e-3)
            assert (got.float() - wanted).abs().max() <= error * largest


@torch.no_grad()
def assert_like_the_plain_loop(lstm, mask, error=2e-6, **options):
    inputs, hidden, cell = draw_inputs(lstm, mask)
    results = prepare(lstm, **options).run(inputs, mask, hidden, cell)
    assert_near(results, lstm.run_reference(inputs, mask, (hidden, cell)), error)
    assert not results[0][~mask].any()


def lengths_mask(lengths, left=False):
    places = torch.arange(max(lengths))
    mask = places < torch.tensor(lengths)[:, None]
    return mask.flip(1) if left else mask


MASKS = {
    "full": torch.ones(3, 5, dtype=torch.bool),
    "right": lengths_mask([2, 5, 1, 4]),
    "left": lengths_mask([2, 5, 1, 4], left=True),
    "holes": torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 0, 0, 0]], dtype=torch.bool),
    "an empty row": lengths_mask([0, 3, 0]),
    "all padding": torch.zeros(3, 2, dtype=torch.bool),
    "one sentence": torch.ones(1, 7, dtype=torch.bool),
    "one sentence with holes": torch.tensor([[0, 1, 0, 1, 1, 0]], dtype=torch.bool),
    "no sentence": torch.ones(0, 4, dtype=torch.bool),
    "no word": torch.ones(3, 0, dtype=torch.bool),
}
VARIANTS = {
    "published": {},
    "no cell clip": {"cell_clip": None},
    "no projection clip": {"projection_clip": None},
    "no clip": {"cell_clip": None, "projection_clip": None},
    "tight clips": {"cell_clip": 0.5, "projection_clip": 0.25},
    "whole-number clips": {"cell_clip": 1, "projection_clip": 1},
    "no projection": {"cell_dim": WIDTH},
    "no projection, no clip": {"cell_dim": WIDTH, "cell_clip": None},
    "square projection": {"cell_dim": WIDTH, "lstm_projection": True},
}


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_every_mask_gives_the_plain_loops_outputs_and_states(mask, reverse, operators):
    assert_like_the_plain_loop(make_lstm(reverse), mask, operators=operators)


@torch.no_grad()
@pytest.mark.parametrize("operators", OPERATORS)
def test_the_first_step_from_zero_needs_no_product(operators):
    lstm, mask = make_lstm(), MASKS["right"]
    inputs, _, cell = draw_inputs(lstm, mask)
    hidden = torch.zeros(len(mask), WIDTH)
    results = prepare(lstm, operators=operators).run(inputs, mask, hidden, cell)
    assert_near(results, lstm.run_reference(inputs, mask, (hidden, cell)), 2e-6)
    lstm.recurrent_map.weight.fill_(torch.nan)
    outputs, _ = prepare(lstm, operators=operators).run(inputs, mask, hidden, cell)
    assert outputs[:, 0].isfinite().all() and outputs[1, 1].isnan().all()


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_setting_gives_the_plain_loops_outputs_and_states(variant, reverse, operators):
    lstm = make_lstm(reverse, **variant)
    for mask in (MASKS["holes"], MASKS["one sentence"]):
        assert_like_the_plain_loop(lstm, mask, operators=operators)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5).flatmap(
        lambda words: st.lists(st.lists(st.booleans(), min_size=words, max_size=words), min_size=1)
    ),
    reverse=st.booleans(),
)
def test_random_masks_give_the_plain_loops_outputs_and_states(rows, reverse):
    assert_like_the_plain_loop(make_lstm(reverse), torch.tensor(rows))


@torch.no_grad()
def test_both_clips_take_effect_in_these_tests():
    lstm, mask = make_lstm(**VARIANTS["tight clips"]), MASKS["holes"]
    inputs, hidden, cell = draw_inputs(lstm, mask)
    outputs, (_, memory) = prepare(lstm).run(inputs, mask, hidden, cell)
    assert (outputs.abs() == lstm.projection_clip).any()
    assert (memory.abs() == lstm.cell_clip).any()


@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_middle_sized_lstm_over_many_pieces_stays_within_the_promised_error(
    batch, reverse, monkeypatch
):
    monkeypatch.setattr("elmo_hf.model.engine_cpu.PIECE_BYTES", 20 * 4 * 1024)
    lstm = make_lstm(reverse, projection_dim=64, cell_dim=256)
    assert_like_the_plain_loop(lstm, lengths_mask([30, *range(1, batch)]))


def test_sentences_give_the_same_alone_and_in_a_batch():
    lstm, mask = make_lstm(projection_dim=64, cell_dim=256), lengths_mask([5, 9, 2])
    inputs, hidden, cell = draw_inputs(lstm, mask)
    for options, error in (({}, 2e-6), ({"precision": "int8"}, 2e-2)):
        prepared = prepare(lstm, **options)
        together, _ = prepared.run(inputs, mask, hidden, cell)
        for row, length in enumerate(mask.sum(1).tolist()):
            only = slice(row, row + 1)
            alone, _ = prepared.run(
                inputs[only, :length], mask[only, :length], hidden[only], cell[only]
            )
            assert (together[row, :length] - alone[0]).abs().max() < error * 3


@pytest.mark.parametrize("rows", [1, 4])
def test_eight_bit_products_do_not_depend_on_other_rows(rows):
    lstm = make_lstm(projection_dim=64, cell_dim=256)
    prepared = prepare(lstm, precision="int8")
    torch.manual_seed(2)
    x = torch.randn(rows, 64)
    alone = multiply(prepared.input_map, x)
    together = multiply(prepared.input_map, torch.cat([x, 1000 * torch.randn(3, 64)]))
    torch.testing.assert_close(together[:rows], alone, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("mask", [MASKS["right"], MASKS["one sentence"]], ids=["batch", "single"])
@torch.no_grad()
def test_bfloat16_weights_stay_within_their_error_and_keep_the_memory_in_float32(mask, operators):
    short = make_lstm(projection_dim=64, cell_dim=256, scale=1).bfloat16()
    inputs, hidden, cell = draw_inputs(short, mask)
    inputs, hidden = inputs.bfloat16(), hidden.bfloat16()
    results = prepare(short, operators=operators).run(inputs, mask, hidden, cell)
    assert results[0].dtype == results[1][0].dtype == torch.bfloat16
    assert results[1][1].dtype == torch.float32
    exact = copy.deepcopy(short).float()
    expected = exact.run_reference(inputs.float(), mask, (hidden.float(), cell))
    assert_near(results, expected, ERROR[torch.bfloat16])


@pytest.mark.parametrize("operators", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [MASKS["right"], MASKS["one sentence"]], ids=["batch", "single"])
@torch.no_grad()
def test_eight_bits_stay_within_their_error(mask, dtype, operators):
    lstm = make_lstm(projection_dim=64, cell_dim=256, scale=1).to(dtype)
    inputs, hidden, cell = draw_inputs(lstm, mask)
    inputs, hidden = inputs.to(dtype), hidden.to(dtype)
    prepared = prepare(lstm, precision="int8", operators=operators)
    results = prepared.run(inputs, mask, hidden, cell)
    assert results[0].dtype == dtype and results[1][1].dtype == torch.float32
    expected = (
        copy.deepcopy(lstm).float().run_reference(inputs.float(), mask, (hidden.float(), cell))
    )
    assert_near(results, expected, ERROR["int8"])


@torch.no_grad()
def test_eight_bits_work_with_words_and_states_of_zeros():
    lstm, mask = make_lstm(), MASKS["right"]
    zeros = torch.zeros(4, 5, WIDTH), torch.zeros(4, WIDTH), torch.zeros(4, CELL)
    outputs, _ = prepare(lstm, precision="int8").run(zeros[0], mask, *zeros[1:])
    assert outputs.isfinite().all()


@pytest.mark.parametrize("count", [2, 40])
@pytest.mark.parametrize("mask", [MASKS["full"], MASKS["holes"]], ids=["full", "holes"])
def test_deduplicated_vectors_give_the_outputs_of_all_words(count, mask):
    lstm = make_lstm(reverse=True)
    _, hidden, cell = draw_inputs(lstm, mask)
    vectors = torch.randn(count, WIDTH)
    places = torch.randint(count, mask.shape)
    prepared = prepare(lstm)
    expected = prepared.run(vectors[places], mask, hidden, cell)
    assert_near(prepared.run(None, mask, hidden, cell, (vectors, places)), expected, 2e-6)


def test_arguments_are_not_changed():
    for mask in MASKS.values():
        lstm = make_lstm()
        given = draw_inputs(lstm, mask)
        before = [tensor.clone() for tensor in given]
        prepare(lstm).run(given[0], mask, *given[1:])
        assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
        assert all(
            torch.equal(a, b)
            for a, b in zip(weights_of(make_lstm()), weights_of(lstm), strict=True)
        )


def test_two_halves_with_carried_states_equal_the_whole_text():
    lstm, mask = make_lstm(), torch.ones(2, 8, dtype=torch.bool)
    inputs, hidden, cell = draw_inputs(lstm, mask)
    prepared = prepare(lstm)
    whole = prepared.run(inputs, mask, hidden, cell)
    first, state = prepared.run(inputs[:, :3], mask[:, :3], hidden, cell)
    second, state = prepared.run(inputs[:, 3:], mask[:, 3:], *state)
    assert_near((torch.cat([first, second], 1), state), whole, 2e-6)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("reverse", [False, True])
def test_unpacking_undoes_packing(mask, reverse):
    packing = Packing(mask, reverse)
    words = torch.rand(*mask.shape, 2) * mask[..., None]
    packed = packing.pack(words)
    assert len(packed) == sum(packing.sizes) == mask.sum()
    assert packing.sizes == sorted(packing.sizes, reverse=True) and 0 not in packing.sizes
    assert torch.equal(packing.unpack(packed), words)
    rows = torch.arange(len(mask))
    assert torch.equal(packing.unsort_rows(packing.sort_rows(rows)), rows)


def test_pieces_cover_every_step_and_hold_no_more_rows_than_allowed():
    sizes = [7, 5, 5, 3, 1, 1]
    for limit in (1, 6, 10, 100):
        pieces = list(_split_steps(sizes, limit))
        assert [step for start, stop in pieces for step in range(start, stop)] == [*range(6)]
        assert all(sum(sizes[a:b]) <= limit or b == a + 1 for a, b in pieces)


def change_by_optimizer(lstm):
    optimizer = torch.optim.SGD(lstm.parameters(), 0.1)
    sum(parameter.sum() for parameter in lstm.parameters()).backward()
    optimizer.step()


@torch.no_grad()
def change_by_copy(lstm):
    lstm.recurrent_map.weight.copy_(torch.rand(4 * CELL, WIDTH))


def change_by_data(lstm):
    lstm.recurrent_map.weight.data.mul_(2)


def change_by_data_copy_of_the_bias(lstm):
    lstm.input_map.bias.data.copy_(torch.rand(4 * CELL))


def change_by_assigned_data(lstm):
    lstm.output_map.weight.data = torch.rand(WIDTH, CELL)


def change_by_loading(lstm):
    lstm.load_state_dict(make_lstm(seed=5).state_dict())


def change_by_loading_with_assignment(lstm):
    lstm.load_state_dict(make_lstm(seed=5).state_dict(), assign=True)


def change_by_type(lstm):
    lstm.to(torch.bfloat16)


def change_by_new_parameter(lstm):
    lstm.input_map.weight = torch.nn.Parameter(torch.rand(4 * CELL, WIDTH))


def change_by_new_parameter_while_the_old_one_lives(lstm):
    lstm.before = [lstm.input_map.weight]
    change_by_new_parameter(lstm)


def change_by_data_of_one_column(lstm):
    lstm.recurrent_map.weight.data[:, 3] += 1


CHANGES = [value for name, value in globals().copy().items() if name.startswith("change_by")]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[7:])
def test_weights_are_prepared_again_after_every_kind_of_change(change):
    lstm, mask, cache = make_lstm(), MASKS["right"], KeptCopy()
    before = get(cache, lstm)
    assert get(cache, lstm) is before
    change(lstm)
    after = get(cache, lstm)
    assert after is not before
    assert get(cache, lstm) is after
    inputs, hidden, cell = draw_inputs(lstm, mask)
    inputs, hidden = inputs.to(after.dtype), hidden.to(after.dtype)
    expected = prepare(lstm).run(inputs, mask, hidden, cell)
    assert_near(after.run(inputs, mask, hidden, cell), expected, 0)


def test_weights_are_prepared_again_for_other_settings():
    lstm, cache = make_lstm(), KeptCopy()
    first = get(cache, lstm)
    lstm.cell_clip = 1.0
    second = get(cache, lstm)
    assert first is not second and second.settings.cell_clip == 1.0


def test_copies_and_pickles_of_a_cache_are_empty():
    lstm, cache = make_lstm(), KeptCopy()
    prepared = get(cache, lstm)
    for other in (copy.deepcopy(cache), copy.copy(cache), pickle.loads(pickle.dumps(cache))):
        assert other is not cache and other._entry is None
        assert get(other, lstm) is not prepared
    assert len(pickle.dumps(cache)) < 200


def test_weights_made_in_inference_mode_work():
    with torch.inference_mode():
        lstm = make_lstm()
    cache = KeptCopy()
    prepared = get(cache, lstm)
    assert get(cache, lstm) is prepared
    assert_like_the_plain_loop(lstm, MASKS["right"])


def test_copies_made_in_inference_mode_work_outside_of_it():
    lstm, mask, cache = make_lstm(), MASKS["right"], KeptCopy()
    inputs, hidden, cell = draw_inputs(lstm, mask)
    with torch.inference_mode():
        get(cache, lstm).run(inputs, mask, hidden, cell)
    outputs, _ = get(cache, lstm).run(inputs, mask, hidden, cell)
    head = torch.nn.Linear(WIDTH, 1)
    head(outputs).sum().backward()
    assert head.weight.grad is not None


def test_many_threads_share_one_cache():
    lstm, cache = make_lstm(projection_dim=32, cell_dim=64), KeptCopy()
    mask = lengths_mask([7, 3, 5])
    tasks = [draw_inputs(lstm, mask, seed) for seed in range(24)]
    expected = [prepare(lstm).run(x, mask, hidden, cell) for x, hidden, cell in tasks]

    def work(task):
        inputs, hidden, cell = task
        prepared = get(cache, lstm)
        return prepared, prepared.run(inputs, mask, hidden, cell)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, tasks))
    assert len({id(prepared) for prepared, _ in results}) == 1
    for (_, result), wanted in zip(results, expected, strict=True):
        assert_near(result, wanted, 0)


def test_change_detection_is_cheap_compared_with_a_new_copy():
    lstm, cache = make_lstm(projection_dim=64, cell_dim=256), KeptCopy()

    def seconds(work):
        start = time.thread_time()
        work()
        return time.thread_time() - start

    make = min(seconds(lambda: cache.clear() or get(cache, lstm)) for _ in range(10))
    look = min(seconds(lambda: get(cache, lstm, words=0)) for _ in range(50))
    assert look < make / 4


def test_obstacles_are_named():
    lstm = make_lstm()
    x, weights = torch.zeros(1, WIDTH), weights_of(lstm)
    assert find_cpu_obstacle((x,), weights) is None
    assert find_cpu_obstacle((x.to("meta"),), weights) == "a tensor is not on the CPU"
    with torch.autocast("cpu"):
        assert find_cpu_obstacle((x,), weights) == "autocast is on"
    double = weights_of(copy.deepcopy(lstm).double())
    assert find_cpu_obstacle((x,), double) == "the weights are torch.float64"
    mixed = weights._replace(output_weight=weights.output_weight.bfloat16())
    assert find_cpu_obstacle((x,), mixed) == "the weights' dtypes differ"
    turned = weights._replace(input_weight=torch.rand(WIDTH, 4 * CELL).t())
    assert find_cpu_obstacle((x,), turned) == "a weight is not contiguous"
