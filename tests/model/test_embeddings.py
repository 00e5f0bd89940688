"""The fast character encoder computes what the plain one does, and knows when it may not run."""

import copy
import pickle
import string
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import nn

from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.model import engine_cpu_characters as engine
from elmo_hf.model.engine_cpu_characters import Snapshot
from elmo_hf.model.layer_embeddings import ElmoEmbeddings

BEGIN, END, PADDING = 259, 260, 261
WIDTHS = [[width, 3 + width] for width in range(1, 8)]


def make(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    settings = {"filters": WIDTHS, "projection_dim": 12, "cell_dim": 12, "char_embedding_dim": 5}
    embeddings = ElmoEmbeddings(ElmoConfig(**{**settings, **changes}))
    for part in embeddings.parameters():
        nn.init.normal_(part, std=0.3)
    return embeddings.to(dtype).eval()


def spell(*words, characters=50, padding=PADDING):
    """`(1, words, characters)`, as the tokenizer gives them."""
    rows = []
    for word in words:
        body = [BEGIN, *(byte + 1 for byte in word.encode()[: characters - 2]), END]
        rows.append(body + [padding] * (characters - len(body)))
    return torch.tensor([rows])


def of_length(*lengths):
    return [(string.ascii_letters * 2)[:length] for length in lengths]


def assert_near(found, expected, bound=2e-6):
    """Equal up to the order of summation, which is exact in terms of the largest values."""
    bound = {torch.float64: 1e-14}.get(expected.dtype, bound)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= bound * expected.abs().max()


def assert_plain_and_fast_agree(embeddings, ids, word_ids=None):
    with torch.no_grad():
        plain = embeddings.encode_reference(ids, word_ids)
        assert_near(embeddings(ids, word_ids), plain)
        vectors, places = embeddings.encode_unique(ids, word_ids)
        assert_near(vectors[places], plain)


@pytest.mark.parametrize("characters", [50, 10, 12, 7])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_words_of_every_length_are_convolved_exactly_to_their_end(characters, activation, dtype):
    embeddings = make(dtype, max_characters_per_token=characters, activation=activation)
    words = of_length(*range(0, 51))
    assert_plain_and_fast_agree(embeddings, spell(*words, characters=characters))
    for word in words[characters - 9 :]:  # each alone too, where it sets the cut itself
        assert_plain_and_fast_agree(embeddings, spell(word, characters=characters))


def test_any_symbol_may_pad_a_word():
    embeddings = make()
    mixed = torch.cat([spell(*of_length(0, 1, 9, 44), padding=p) for p in (261, 7, 98, 0)], 1)
    assert_plain_and_fast_agree(embeddings, mixed)
    anything = torch.randint(0, 262, (3, 20, 50))
    assert_plain_and_fast_agree(embeddings, anything)
    anything[:, :, 30:] = anything[:, :, 30:31]
    anything[:, 15:] = 0
    assert_plain_and_fast_agree(embeddings, anything)


@pytest.mark.parametrize("lengths", [(0, 3), (1, 41, 2), (42, 43), (44,), (50, 0)])
def test_a_batch_may_be_cut_behind_its_longest_word(lengths):
    embeddings, ids = make(torch.float64), spell(*of_length(*lengths))
    cut = engine.cut_padding(ids[0], 7)[None]
    assert cut.shape[-1] == min(50, max(lengths) + 2 + 7)
    assert_near(embeddings.encode_reference(cut), embeddings.encode_reference(ids))


def test_filter_widths_may_have_any_order():
    embeddings = make(filters=[[5, 4], [1, 3], [7, 2], [5, 3]], num_highway_layers=0)
    assert_plain_and_fast_agree(embeddings, spell(*of_length(3, 43, 44, 45, 48, 0, 12)))


def test_a_word_table_is_concatenated_with_the_characters():
    embeddings = make(word_vocab_size=9, word_embedding_dim=4)
    ids = spell("a", "bc", "a", "bc", "a")
    word_ids = torch.tensor([[1, 2, 1, 3, 4]])  # one spelling with several ids
    assert_plain_and_fast_agree(embeddings, ids, word_ids)
    assert len(embeddings.encode_unique(ids, word_ids)[0]) == 4


def test_a_word_table_alone_has_unique_rows_too():
    embeddings = make(filters=[], word_vocab_size=9, word_embedding_dim=4)
    word_ids = torch.tensor([[3, 1, 3], [1, 0, 0]])
    vectors, places = embeddings.encode_unique(word_ids=word_ids)
    assert len(vectors) == 3
    torch.testing.assert_close(vectors[places], embeddings(word_ids=word_ids))


def test_a_batch_without_words_has_no_vectors():
    embeddings = make()
    for shape in ((0, 3, 50), (2, 0, 50)):
        ids = torch.zeros(shape, dtype=torch.long)
        assert embeddings(ids).shape == (*shape[:2], 12)
        assert embeddings.encode_unique(ids)[0].shape == (0, 12)


def test_unique_rows_are_exact_even_if_hashes_collide(monkeypatch):
    rows = torch.randint(0, 3, (200, 4), dtype=torch.int32)
    expected = torch.unique(rows, dim=0)
    for same_number in (False, True):
        if same_number:
            monkeypatch.setattr(torch.Tensor, "cumprod", lambda self, dim: self * 0)
        unique, places = engine.unique_rows(rows)
        assert torch.equal(unique[places], rows)
        assert torch.equal(torch.unique(unique, dim=0), expected)
        assert len(unique) == len(expected)


def test_gradients_are_those_of_the_plain_encoder():
    embeddings = make(word_vocab_size=9, word_embedding_dim=4)
    ids = spell("the", "cat", "saw", "the", *of_length(43, 45, 48), "")
    ids = torch.cat([ids, torch.zeros_like(ids)], 1)
    word_ids = torch.randint(0, 9, ids.shape[:2])
    parameters = dict(embeddings.named_parameters())
    fast = torch.autograd.grad(embeddings(ids, word_ids).pow(3).sum(), [*parameters.values()])
    plain = torch.autograd.grad(
        embeddings.encode_reference(ids, word_ids).pow(3).sum(), [*parameters.values()]
    )
    for name, found, expected in zip(parameters, fast, plain, strict=True):
        assert (found - expected).norm() <= 1e-5 * expected.norm(), name
        assert found.stride() == parameters[name].stride(), name  # else DDP warns
    assert not fast[list(parameters).index("char_embeddings.weight")][0].any()


def test_gradients_pass_gradcheck():
    embeddings = make(torch.float64, filters=[[1, 2], [3, 3]], activation="tanh")
    ids = spell("ab", "b", "ab", "c" * 48)
    names, values = zip(*embeddings.named_parameters(), strict=True)
    rows = ids[0].unique()  # of the table, perturb what occurs

    def run(characters, *others):
        table = values[0].detach().index_copy(0, rows, characters)
        given = dict(zip(names, (table, *others), strict=True))
        with_weights = copy.deepcopy(embeddings)
        for name, value in given.items():  # plain attributes keep the graph
            owner, _, leaf = name.rpartition(".")
            module = with_weights.get_submodule(owner)
            del module._parameters[leaf]
            setattr(module, leaf, value)
        pooled = engine.pool_characters(
            with_weights.char_embeddings, with_weights.convolutions, ids[0]
        )
        return with_weights._map(pooled.tanh(), None, None)

    assert names[0] == "char_embeddings.weight"
    assert torch.autograd.gradcheck(run, (values[0].detach()[rows].requires_grad_(), *values[1:]))


def test_half_precision_is_as_near_as_the_plain_encoder():
    ids, exact = spell(*of_length(*range(0, 49, 3))), make()
    expected = exact.encode_reference(ids).detach()
    embeddings = copy.deepcopy(exact).bfloat16()
    with torch.no_grad():
        fast, plain = embeddings(ids), embeddings.encode_reference(ids)
    assert fast.dtype == torch.bfloat16
    assert (fast - expected).norm() <= 1.2 * (plain - expected).norm()


def test_autocast_applies_as_to_any_module():
    embeddings, ids = make(), spell("one", "two")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert embeddings(ids).dtype == torch.bfloat16
        assert embeddings.encode_reference(ids).dtype == torch.bfloat16


def change_in_place(linear):
    with torch.no_grad():
        linear.weight.mul_(2)


def change_through_data(linear):
    linear.weight.data.mul_(2)


def replace_data(linear):
    linear.weight.data = linear.weight.data * 2


def replace_parameter(linear):
    linear.weight = nn.Parameter(linear.weight.detach() * 2)


@pytest.mark.parametrize(
    "change", [change_in_place, change_through_data, replace_data, replace_parameter]
)
@pytest.mark.parametrize("cache", [0, 100])
def test_a_changed_weight_is_noticed(change, cache):
    embeddings, ids = make(), spell("one", "two", "three")
    with torch.no_grad(), embeddings.word_cache(cache):
        before = embeddings(ids)
        change(embeddings.highways[1].gate)
        assert not torch.equal(embeddings(ids), before)
        assert_plain_and_fast_agree(embeddings, ids)


def test_weights_may_change_type_between_calls():
    embeddings, ids = make(), spell("one", "two")
    with torch.inference_mode():
        embeddings(ids)
        assert embeddings.bfloat16()(ids).dtype == torch.bfloat16
        assert embeddings.double()(ids).dtype == torch.float64
        assert_plain_and_fast_agree(embeddings.float(), ids)


def test_prepared_weights_are_neither_copied_nor_pickled():
    embeddings, ids = make(), spell("one", "two")
    with torch.no_grad():
        expected = embeddings(ids)
        for again in (copy.deepcopy(embeddings), pickle.loads(pickle.dumps(embeddings))):
            assert again._copies.peek() is None
            assert torch.equal(again(ids), expected)
    assert embeddings.state_dict().keys() == dict(embeddings.named_parameters()).keys()


def test_vectors_cached_in_inference_mode_can_train_a_head():
    embeddings, ids = make().requires_grad_(False), spell("one", "two")
    head = nn.Linear(12, 1)
    with embeddings.word_cache():
        with torch.inference_mode():
            embeddings(ids)
        head(embeddings(ids)).sum().backward()
    assert head.weight.grad.any()


class Doubled(nn.Linear):
    def forward(self, vectors):
        return 2 * super().forward(vectors)


@pytest.mark.parametrize("name", ["highways.0.gate", "projection", "highways.1", "convolutions.2"])
def test_hooks_fire_as_in_the_plain_encoder(name):
    embeddings, ids = make(), spell("one", "two", "one")
    module = embeddings.get_submodule(name)
    with torch.no_grad():
        before = embeddings(ids)
        handle = module.register_forward_hook(lambda module, args, output: output * 2)
        assert_near(embeddings(ids), embeddings.encode_reference(ids))
        assert not torch.allclose(embeddings(ids), before)
        handle.remove()
        assert torch.equal(embeddings(ids), before)


def test_a_replaced_module_is_called():
    embeddings, ids = make(), spell("one", "two")
    doubled = Doubled(12, 12)
    doubled.__dict__.update(embeddings.projection.__dict__)
    with torch.no_grad():
        before = embeddings(ids)
        embeddings.projection = doubled
        torch.testing.assert_close(embeddings(ids), 2 * before)


def test_a_cached_vector_has_the_same_bits_whatever_it_is_computed_with():
    embeddings = make()
    words = [chr(97 + i) * (i + 1) for i in range(20)]
    with torch.no_grad(), embeddings.word_cache(1):
        together = embeddings(spell(*words))[0]
        for word, vector in zip(words, together, strict=True):
            assert torch.equal(embeddings(spell(word))[0, 0], vector)


def test_the_word_cache_changes_no_vector_and_stays_bounded(monkeypatch):
    embeddings = make()
    batches = [spell("a", "b"), spell("b", "c", "b"), spell("d", "a", "e", "f"), spell("a", "b")]
    encoded = []
    pool = engine.pool_characters
    monkeypatch.setattr(
        "elmo_hf.model.layer_embeddings.pool_characters",
        lambda table, convolutions, rows, *options, **names: (
            encoded.append(len(rows)) or pool(table, convolutions, rows, *options, **names)
        ),
    )
    with torch.no_grad():
        expected = [embeddings(ids) for ids in batches]
        encoded.clear()
        with embeddings.word_cache(5):
            for ids, vectors in zip(batches, expected, strict=True):
                assert_near(embeddings(ids), vectors)
                assert len(embeddings._copies.peek().words) <= 5
        assert encoded == [2, 1, 3, 2]  # the third batch overflows, so the fourth begins anew
        assert not embeddings._copies.peek().words


def test_without_onednn_the_results_are_the_same(monkeypatch):
    embeddings, ids = make(), spell("one", "two", "three")
    with torch.no_grad():
        fast = embeddings(ids)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert_near(embeddings(ids), fast)


@pytest.mark.slow
def test_a_graph_is_recorded_over_every_word_and_position():
    embeddings, ids = make(), spell("one", "two", "one")
    with torch.no_grad():
        exported = torch.export.export(embeddings, (ids,), strict=False).module()
        traced = torch.jit.trace(embeddings, (ids,), check_trace=False)
        others = spell("x" * 48, "y", "z")
        expected = embeddings.encode_reference(others)
        torch.testing.assert_close(exported(others), expected)
        torch.testing.assert_close(traced(others), expected)
        assert embeddings.to("meta")(ids.to("meta")).shape == (1, 3, 12)


def test_the_model_gives_the_same_vectors_with_the_cache():
    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig(filters=WIDTHS, projection_dim=12, cell_dim=12)).eval()
    ids = spell("one", "two", "one")
    with torch.inference_mode(), model.embeddings.word_cache():
        first, second = model(ids)[0], model(ids)[0]
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_a_word_in_two_threads_is_encoded_once():
    snapshot, rows, encoded, started = (
        Snapshot(),
        torch.arange(12).view(6, 2),
        [],
        Event(),
    )

    def encode(some):
        started.set()
        time.sleep(0.05)
        encoded.extend(some[:, 0].tolist())
        return some.float()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(snapshot.recall, rows[:4], encode, 100)
        started.wait()
        second = pool.submit(snapshot.recall, rows[2:], encode, 100)
        assert torch.equal(first.result(), rows[:4].float())
        assert torch.equal(second.result(), rows[2:].float())
    assert sorted(encoded) == rows[:, 0].tolist()


def test_a_word_whose_encoding_failed_is_encoded_again():
    snapshot, rows = Snapshot(), torch.arange(4).view(2, 2)
    with pytest.raises(ZeroDivisionError):
        snapshot.recall(rows, lambda some: some / (1 // 0), 100)
    assert torch.equal(snapshot.recall(rows, lambda some: some.float(), 100), rows.float())
