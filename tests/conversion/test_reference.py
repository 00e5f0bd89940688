"""Compares the NumPy reference with stored outputs of the original programs, and itself."""

import ast
import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.gold import BESIDE, CLOSE, GOLD, needs_bilm_tf

from elmo_hf.conversion import reference

FIXTURE, TRAINING_TEXT = BESIDE / "bilm_tf_fixture", BESIDE / "bilm_tf_train"


def test_the_reference_imports_nothing_but_numpy_and_the_standard_library():
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
    }
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported == {"__future__", "collections.abc", "typing", "numpy", "numpy.typing"}


# Against the original programs


def test_awkward_words_get_the_character_ids_of_allennlp():
    words = json.loads((GOLD / "char_words.json").read_text(encoding="utf-8"))
    expected = np.load(GOLD / "char_ids.npz")["ids"]
    assert np.array_equal([reference.character_ids(word, 50) for word in words], expected)


def test_short_rows_cut_words_as_bilm_tf_does():
    assert reference.character_ids("th", 5).tolist() == [259, 117, 105, 260, 261]
    assert reference.character_ids("thhhhh", 5).tolist() == [259, 117, 105, 105, 260]
    assert reference.character_ids("\u0100t", 5).tolist() == [259, 197, 129, 117, 260]
    assert reference.character_ids("</S>", 3).tolist() == [259, 258, 260]
    with pytest.raises(ValueError, match="pass 3 or more"):
        reference.character_ids("a", 2)


@pytest.fixture(scope="module")
def fixture_answers():
    """Compute the layers of 10 batches of 3 rows, carrying states from batch to batch."""
    options = json.loads((FIXTURE / "options.json").read_text())
    lists = json.loads((FIXTURE / "lm_embeddings_sentences.json").read_text(encoding="utf-8"))
    answers, states = [], None
    with h5py.File(FIXTURE / "lm_weights.hdf5") as weights:
        for batch in zip(*lists, strict=True):
            sentences = [sentence.split() for sentence in batch]
            layers, states = reference.forward(options, weights, sentences, states)
            answers.append(layers)
    return answers


@needs_bilm_tf
def test_all_layers_equal_bilm_tf_with_states_carried_over_ten_batches(fixture_answers):
    with np.load(FIXTURE / "layers.npz") as gold:
        for batch, answer in enumerate(fixture_answers):
            expected, mask = gold[f"{batch}/lm"], gold[f"{batch}/mask"]
            for row, layers in enumerate(answer):
                within = np.stack(layers)[:, 1:-1]  # (layers, words, 2P)
                np.testing.assert_allclose(within, expected[row][:, mask[row]], **CLOSE)


@needs_bilm_tf
@pytest.mark.parametrize("row", range(3))
def test_the_top_layer_equals_the_embeddings_published_with_bilm_tf(fixture_answers, row):
    with h5py.File(FIXTURE / f"lm_embeddings_{row}.hdf5") as gold:
        assert len(gold) == len(fixture_answers) == 10
        for batch, answer in enumerate(fixture_answers):
            forward, backward = gold[str(batch)][...]  # each (words, P)
            expected = np.concatenate([forward, backward], axis=1)
            np.testing.assert_allclose(answer[row][-1][1:-1], expected, **CLOSE)


def check_language_model(options, weights, softmax, gold, forward, backward, vocabulary=None):
    """Run the two streams of words, each as its own direction reads it, and compare with `gold`.

    The streams see different text, so each is a row of its own, of which one direction is taken.
    The backward stack reads a row from its end, so its row is its stream turned round.
    """
    rows = [forward, backward[::-1]]
    layers, _ = reference.forward_rows(options, weights, rows, vocabulary=vocabulary)
    ahead = reference.logits(softmax, layers[0][-1])[0]
    behind = reference.logits(softmax, layers[1][-1])[1][::-1]
    logits = np.stack([ahead, behind], axis=1)  # (steps, 2, V)
    np.testing.assert_allclose(logits, gold["logits"][:, :, 0], **CLOSE)

    targets = np.stack([gold["next"], gold["next_rev"]], axis=1)
    scores = np.take_along_axis(logits, targets[..., None], axis=2)[..., 0]
    losses = np.log(np.exp(logits).sum(axis=2)) - scores
    np.testing.assert_allclose(losses, gold["losses"], **CLOSE)


def test_logits_and_losses_equal_bilm_tf_for_token_input():
    folder = GOLD / "tfckpt_tok"
    options = json.loads((folder / "options.json").read_text())
    variables = np.load(folder / "vars.npz")
    softmax = {name: variables[f"lm/{name}"] for name in ("softmax/W", "softmax/b")}
    gold = np.load(folder / "lm_gold.npz")
    # Except for the unknown word, words of a table can have any name: word 7 is "7".
    names = [str(number) for number in range(32)]
    names[2] = "<UNK>"
    forward, backward = ([names[i] for i in gold[key]] for key in ("tokens", "tokens_rev"))
    forward[6] = "not in the vocabulary"
    assert gold["tokens"][6] == 2
    vocabulary = {name: number for number, name in enumerate(names)}
    with h5py.File(folder / "weights.hdf5") as weights:
        check_language_model(options, weights, softmax, gold, forward, backward, vocabulary)


@needs_bilm_tf
def test_logits_and_losses_equal_bilm_tf_for_character_input():
    folder = GOLD / "tfckpt_chars"
    options = json.loads((folder / "options.json").read_text())
    variables = np.load(folder / "vars.npz")
    softmax = {name: variables[f"lm/{name}"] for name in ("softmax/W", "softmax/b")}
    gold = np.load(folder / "lm_gold.npz")

    text = (TRAINING_TEXT / "data.txt").read_text(encoding="utf-8").splitlines()
    twice = [line.split() for line in text] * 2  # 138 steps each, and the gold has 200
    forward = [word for words in twice for word in ["<S>", *words]][:200]
    backward = [word for words in twice for word in ["</S>", *words[::-1]]][:200]
    known = (TRAINING_TEXT / "vocab.txt").read_text(encoding="utf-8").split()
    ids = {word: number for number, word in enumerate(known)}
    assert [ids.get(word, ids["<UNK>"]) for word in forward] == gold["tokens"].tolist()
    assert [ids.get(word, ids["<UNK>"]) for word in backward] == gold["tokens_rev"].tolist()
    with h5py.File(folder / "weights.hdf5") as weights:
        check_language_model(options, weights, softmax, gold, forward, backward)


# Variants without stored outputs

SENTENCES = [["na\u00efve", "words", "here"], [], ["a", "words"]]


def make_options(dim=6, size=4, n_layers=2, **lstm):
    """Options of a tiny character model with 5 filters of three widths."""
    cnn = {
        "embedding": {"dim": 3},
        "filters": [[1, 2], [2, 2], [4, 1]],
        "n_highway": 1,
        "n_characters": 261,
        "max_characters_per_token": 7,
        "activation": "relu",
    }
    lstm = {"dim": dim, "projection_dim": size, "n_layers": n_layers, **lstm}
    return {"lstm": {"use_skip_connections": True, **lstm}, "char_cnn": cnn}


def make_arrays(options, stacks=("RNN_0/RNN", "RNN_1/RNN"), leaves=("W_0", "B", "W_P_0")):
    rng = np.random.default_rng(0)
    lstm, cnn = options["lstm"], options["char_cnn"]
    dim, size, char_dim = lstm["dim"], lstm["projection_dim"], cnn["embedding"]["dim"]
    features = sum(count for _, count in cnn["filters"])
    shapes = {"char_embed": (261, char_dim)}
    for i, (width, count) in enumerate(cnn["filters"]):
        shapes |= {f"CNN/W_cnn_{i}": (1, width, char_dim, count), f"CNN/b_cnn_{i}": (count,)}
    for k in range(cnn.get("n_highway") or 0):
        for part in ("carry", "transform"):
            shapes |= {f"CNN_high_{k}/W_{part}": (features, features)}
            shapes |= {f"CNN_high_{k}/b_{part}": (features,)}
    if features != size:
        shapes |= {"CNN_proj/W_proj": (features, size), "CNN_proj/b_proj": (size,)}
    for stack in stacks:
        for layer in range(lstm["n_layers"]):
            cell = f"{stack}/MultiRNNCell/Cell{layer}/LSTMCell"
            shapes |= {
                f"{cell}/{leaves[0]}": (2 * size, 4 * dim),
                f"{cell}/{leaves[1]}": (4 * dim,),
            }
            if dim != size:
                shapes |= {f"{cell}/{leaves[2]}": (dim, size)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def layers_of(options, arrays, sentences=SENTENCES, **given):
    return reference.forward(options, arrays, sentences, **given)[0]


def assert_same(answer, expected):
    for layers, wanted in zip(answer, expected, strict=True):
        for array, other in zip(layers, wanted, strict=True):
            np.testing.assert_allclose(array, other, atol=1e-12, rtol=0)


def test_every_layer_has_the_boundaries_and_both_directions_in_float64():
    options = make_options()
    for sentence, layers in zip(SENTENCES, layers_of(options, make_arrays(options)), strict=True):
        assert [layer.shape for layer in layers] == [(len(sentence) + 2, 8)] * 3
        assert all(layer.dtype == np.float64 for layer in layers)
        assert np.array_equal(layers[0][:, :4], layers[0][:, 4:])


def test_no_sentence_changes_another_one():
    options = make_options()
    arrays = make_arrays(options)
    alone = [layers_of(options, arrays, [sentence])[0] for sentence in SENTENCES]
    assert_same(layers_of(options, arrays), alone)


def scalar_lstm_step(x, h, c, kernel, bias, projection, cell_clip, proj_clip):
    """One step of the TensorFlow LSTMCell, number by number."""
    dim = len(c)

    def times(values, matrix, column):
        return sum(value * row[column] for value, row in zip(values, matrix, strict=True))

    def logistic(value):
        return 1.0 / (1.0 + math.exp(-value))

    def clipped(value, limit):
        return max(-limit, min(limit, value)) if limit else value

    z = [times([*x, *h], kernel, n) + bias[n] for n in range(4 * dim)]
    memory, output = [], []
    for n in range(dim):
        i, j, f, o = z[n], z[dim + n], z[2 * dim + n], z[3 * dim + n]
        new = clipped(logistic(f + 1) * c[n] + logistic(i) * math.tanh(j), cell_clip)
        memory.append(new)
        output.append(logistic(o) * math.tanh(new))
    if projection is not None:
        columns = range(len(projection[0]))
        output = [clipped(times(output, projection, p), proj_clip) for p in columns]
    return output, memory


@pytest.mark.parametrize("dim", [3, 2])  # with a projection, and without
@pytest.mark.parametrize("cell_clip", [0.25, 0, None])
@pytest.mark.parametrize("proj_clip", [0.1, 0, None])
def test_a_cell_equals_its_equations_written_out(dim, cell_clip, proj_clip):
    rng = np.random.default_rng(1)
    kernel, bias = rng.normal(size=(4, 4 * dim)), rng.normal(size=4 * dim)
    projection = rng.normal(size=(dim, 2)) if dim != 2 else None
    lstm = {"dim": dim, "projection_dim": 2, "cell_clip": cell_clip, "proj_clip": proj_clip}
    arrays = {"a/W_0": kernel, "a/B": bias, "a/W_P_0": projection}
    x, h, c = rng.normal(size=(5, 2)), rng.normal(size=2), rng.normal(size=dim)
    outputs, (last_h, last_c) = reference.LSTMCell(lstm, arrays, ["a"]).run(x, (h, c))
    for given, output in zip(x, outputs, strict=True):
        h, c = scalar_lstm_step(given, h, c, kernel, bias, projection, cell_clip, proj_clip)
        np.testing.assert_allclose(output, h, atol=1e-13)
    np.testing.assert_allclose(last_h, h, atol=1e-13)
    np.testing.assert_allclose(last_c, c, atol=1e-13)


def test_clips_that_are_absent_none_or_zero_are_off():
    answers = [
        layers_of(options, make_arrays(options))
        for options in (make_options(cell_clip=c, proj_clip=c) for c in (None, 0, 1e9))
    ]
    answers.append(layers_of(make_options(), make_arrays(make_options())))
    for answer in answers[1:]:
        assert_same(answer, answers[0])
    clipped = layers_of(make_options(proj_clip=0.01), make_arrays(make_options()))
    assert np.abs(clipped[0][1]).max() == 0.01


@pytest.mark.parametrize("leaves", [("W_0", "B", "W_P_0"), ("kernel", "bias", "projection/kernel")])
def test_a_file_of_one_direction_gives_the_forward_half(leaves):
    options = make_options()
    both = make_arrays(options)
    one = make_arrays(options, stacks=["rnn"], leaves=leaves)  # the same seed, the same numbers
    halves = [[layer[:, :4] for layer in layers] for layers in layers_of(options, both)]
    assert_same(layers_of(options, one), halves)


@pytest.mark.parametrize("stacks", [("RNN_0/RNN", "RNN_1/RNN"), ("rnn",)])
@pytest.mark.parametrize("leaves", [("W_0", "B", "W_P_0"), ("kernel", "bias", "projection/kernel")])
def test_the_layout_of_one_layer_gives_the_first_layer(stacks, leaves):
    two = make_arrays(make_options(), stacks, leaves)
    first = {
        name.replace("MultiRNNCell/Cell0/", ""): two[name] for name in two if "Cell1" not in name
    }
    options = make_options()
    del options["lstm"]["n_layers"]
    expected = [layers[:2] for layers in layers_of(make_options(), two)]
    assert_same(layers_of(options, first), expected)


def test_skip_connections_add_the_input_of_every_layer_but_the_first():
    options, plain = make_options(n_layers=2), make_options(n_layers=2, use_skip_connections=False)
    arrays = make_arrays(options)
    for added, layers in zip(layers_of(options, arrays), layers_of(plain, arrays), strict=True):
        np.testing.assert_allclose(added[1], layers[1], atol=1e-12)
        np.testing.assert_allclose(added[2], layers[2] + layers[1], atol=1e-12)


def test_a_model_without_highways_equals_one_whose_gates_are_shut():
    options, without = make_options(), make_options()
    arrays = make_arrays(options)
    arrays["CNN_high_0/b_carry"] = np.full(5, -1e4)
    del without["char_cnn"]["n_highway"]
    assert_same(layers_of(options, arrays), layers_of(without, arrays))


def test_filters_as_wide_as_the_projection_are_not_projected():
    options, narrow = make_options(), make_options()
    options["char_cnn"]["n_highway"] = narrow["char_cnn"]["n_highway"] = 0
    arrays = make_arrays(options)
    arrays |= {"CNN_proj/W_proj": np.eye(5, 4), "CNN_proj/b_proj": np.zeros(4)}
    narrow["char_cnn"]["filters"] = options["char_cnn"]["filters"][
        :2
    ]  # 4 values, as projection_dim
    without = {name: array for name, array in arrays.items() if "CNN_proj" not in name}
    assert_same(layers_of(narrow, without), layers_of(options, arrays))


def test_an_activation_that_bilm_tf_does_not_have_is_refused():
    options = make_options()
    options["char_cnn"]["activation"] = "gelu"
    with pytest.raises(KeyError, match="gelu"):
        layers_of(options, make_arrays(options))


def test_relu_and_tanh_follow_the_largest_sum_of_each_filter():
    options = make_options(size=2)
    options["char_cnn"] |= {"filters": [[3, 2]], "n_highway": 0, "max_characters_per_token": 6}
    arrays = make_arrays(options)
    table, weight, bias = (arrays[n] for n in ("char_embed", "CNN/W_cnn_0", "CNN/b_cnn_0"))
    raw = [258, ord("o"), ord("f"), 259, 260, 260]  # a window reaches over the character padding
    sums = [
        [sum(table[raw[t + j]] @ weight[0, j, :, n] for j in range(3)) + bias[n] for n in range(2)]
        for t in range(4)
    ]
    for activation, function in (("tanh", math.tanh), ("relu", lambda value: max(value, 0.0))):
        options["char_cnn"]["activation"] = activation
        layers = layers_of(options, arrays, [["of"]])[0]
        expected = [function(max(row[n] for row in sums)) for n in range(2)]
        np.testing.assert_allclose(layers[0][1, :2], expected, atol=1e-5)


def test_a_row_read_in_two_calls_equals_one_call_in_each_direction():
    options = make_options()
    arrays = make_arrays(options)
    left, right = ["one", "two"], ["three", "four", "five"]
    (whole,), _ = reference.forward_rows(options, arrays, [left + right])
    (first,), states = reference.forward_rows(options, arrays, [left])
    (then,), _ = reference.forward_rows(options, arrays, [right], states)
    for a, b, expected in zip(first, then, whole, strict=True):
        np.testing.assert_allclose(np.concatenate([a, b])[:, :4], expected[:, :4], atol=1e-12)
    (first,), states = reference.forward_rows(options, arrays, [right])
    (then,), _ = reference.forward_rows(options, arrays, [left], states)
    for a, b, expected in zip(then, first, whole, strict=True):
        np.testing.assert_allclose(np.concatenate([a, b])[:, 4:], expected[:, 4:], atol=1e-12)


def test_a_call_leaves_the_states_it_was_given_as_they_were():
    options = make_options()
    arrays = make_arrays(options)
    _, states = reference.forward(options, arrays, [["a"]])
    before = {key: (h.copy(), c.copy()) for key, (h, c) in states[0].items()}
    reference.forward(options, arrays, [["b", "c"]], states)
    assert states[0].keys() == before.keys() == {(d, layer) for d in (0, 1) for layer in (0, 1)}
    for key, (h, c) in before.items():
        assert np.array_equal(states[0][key][0], h) and np.array_equal(states[0][key][1], c)
    assert_same(
        layers_of(options, arrays, [["a"]], states=[{}]), layers_of(options, arrays, [["a"]])
    )


def test_tied_logits_come_from_the_word_table():
    rng = np.random.default_rng(2)
    table, bias, top = rng.normal(size=(7, 4)), rng.normal(size=7), rng.normal(size=(3, 8))
    forward, backward = reference.logits({"embedding": table, "softmax/b": bias}, top)
    np.testing.assert_allclose(forward, top[:, :4] @ table.T + bias)
    np.testing.assert_allclose(backward, top[:, 4:] @ table.T + bias)
    (single,) = reference.logits({"softmax/W": table, "softmax/b": bias}, top[:, :4])
    np.testing.assert_allclose(single, forward)


def test_large_softmax_tables_are_read_in_blocks(monkeypatch):
    rng = np.random.default_rng(3)
    softmax = {"softmax/W": rng.normal(size=(7, 4)), "softmax/b": rng.normal(size=7)}
    whole = reference.logits(softmax, np.ones((2, 8)))
    monkeypatch.setattr(reference, "LOGITS_BLOCK", 3)
    np.testing.assert_allclose(reference.logits(softmax, np.ones((2, 8))), whole)


class CountingArrays(dict):
    def __init__(self, arrays):
        super().__init__(arrays)
        self.reads = dict.fromkeys(arrays, 0)

    def __getitem__(self, name):
        self.reads[name] += 1
        return super().__getitem__(name)


def test_every_array_is_read_once_however_many_sentences():
    options = make_options()
    arrays = CountingArrays(make_arrays(options))
    layers_of(options, arrays, SENTENCES * 3)
    assert set(arrays.reads.values()) == {1}


def test_errors_name_what_is_missing_or_of_another_shape():
    options = make_options()
    arrays = make_arrays(options)
    cell = "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell"
    without = {name: array for name, array in arrays.items() if name != f"{cell}/B"}
    with pytest.raises(KeyError, match=f"{cell}/B or {cell}/bias"):
        layers_of(options, without)
    turned = arrays | {f"{cell}/W_P_0": arrays[f"{cell}/W_P_0"].T}
    with pytest.raises(ValueError, match=r"W_P_0.*\(4, 6\); the options require \(6, 4\)"):
        layers_of(options, turned)
    with pytest.raises(ValueError, match="got 1 states for 3 rows"):
        layers_of(options, arrays, states=[{}])
    del options["char_cnn"]
    with pytest.raises(ValueError, match="pass vocabulary="):
        layers_of(options, arrays)
