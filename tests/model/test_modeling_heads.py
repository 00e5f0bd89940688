"""The task heads: what they promise about words, padding, losses and frozen biLMs."""

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    pipeline,
)

from elmo_hf import (
    ElmoConfig,
    ElmoForMultipleChoice,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)
from elmo_hf.model.engine_choice import choose_engine

TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
SENTENCES = ["the river does not stop", "no", "rain fell on the hill"]
TOKENIZER = ElmoTokenizer()
VARIANTS = {
    "plain": {},
    "biLSTM": {"classifier_lstm_dim": 5},
    "CRF": {"use_crf": True, "classifier_lstm_dim": 3},
    "two layers": {"mix_layers": [0, 2], "classifier_pooling": "ends"},
}


def make(head=ElmoForSequenceClassification, seed=0, **changes):
    torch.manual_seed(seed)
    model = head(ElmoConfig(**{**TINY, "num_labels": 3, **changes})).eval()
    if getattr(model, "crf", None) is not None:
        model.crf.transitions.data.normal_()
    return model


def tokenize(sentences, side="right", **kwargs):
    return TOKENIZER(sentences, padding=True, padding_side=side, return_tensors="pt", **kwargs)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", [ElmoForSequenceClassification, ElmoForTokenClassification])
def test_padding_and_batch_mates_change_nothing(head, variant):
    model = make(head, **VARIANTS[variant])
    right = model(**tokenize(SENTENCES)).logits
    left_inputs = tokenize(SENTENCES, side="left")
    left = model(**left_inputs).logits
    for row, sentence in enumerate(SENTENCES):
        alone = model(**tokenize(sentence)).logits[0]
        if head is ElmoForTokenClassification:
            valid = left_inputs.attention_mask[row].bool()
            torch.testing.assert_close(left[row, valid], alone, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(right[row, : len(alone)], alone, atol=1e-5, rtol=1e-4)
        else:
            torch.testing.assert_close(left[row], alone, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(right[row], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("boundaries", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "mean+max", "ends"])
def test_pooling_equals_its_definition(pooling, boundaries):
    model = make(classifier_pooling=pooling, pool_boundaries=boundaries)
    inputs = tokenize(SENTENCES)
    layers = torch.stack(model.elmo(**inputs, output_hidden_states=True).hidden_states)
    mixed = layers.mean(0)
    for row, length in enumerate(inputs.attention_mask.sum(1).tolist()):
        words = mixed[row, :length] if boundaries else mixed[row, 1 : length - 1]
        mean, highest = words.mean(0), words.amax(0)
        expected = {
            "mean": mean,
            "max": highest,
            "mean+max": torch.cat([mean, highest]),
            "ends": torch.cat([words[-1, :6], words[0, 6:]]),
        }[pooling]
        torch.testing.assert_close(model(**inputs).logits[row], model.classifier(expected))


def test_a_text_without_words_is_scored_from_zeros():
    for pooling in ("mean", "max", "mean+max", "ends"):
        for lstm_dim in (0, 3):
            model = make(classifier_pooling=pooling, classifier_lstm_dim=lstm_dim)
            expected = model.classifier.bias.expand(2, -1)
            torch.testing.assert_close(model(**tokenize(["", ""])).logits, expected)
            for shape in ((2, 3, 50), (2, 0, 50)):
                nothing = torch.zeros(shape, dtype=torch.long)
                torch.testing.assert_close(model(nothing).logits, expected)


def test_a_frozen_biLM_keeps_no_activations_and_no_dropout():
    inputs = tokenize(SENTENCES)
    kept = {}
    for frozen in (False, True):
        model = make(ElmoForTokenClassification, dropout=0.5, mix_dropout=0.0)
        model.train()
        model.elmo.requires_grad_(not frozen)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor.numel()) or tensor,
            lambda tensor: tensor,
        ):
            logits = model(**inputs).logits
        kept[frozen] = sum(saved)
        if frozen:
            assert torch.equal(logits, model(**inputs).logits)  # its own dropout would show
            logits.sum().backward()
            trained = {name for name, p in model.named_parameters() if p.grad is not None}
            assert trained == {n for n, _ in model.named_parameters() if not n.startswith("elmo.")}
            words, state = torch.zeros(1, 1, 6), (torch.zeros(1, 6), torch.zeros(1, 12))
            assert choose_engine(model.elmo.layers[0].forward_lstm, words, state)[0] == "cpu"
    words = inputs.attention_mask.numel()
    # The mix keeps its three layers, the classifier its input; each of width 12.
    assert kept[True] < 6 * words * 12 < kept[False] / 3


@pytest.mark.parametrize("freeze_first", [False, True])
def test_a_call_leaves_the_training_mode_of_every_module_as_it_is(freeze_first):
    model, inputs = make(dropout=0.5, mix_dropout=0.0), tokenize(SENTENCES)
    model.elmo.requires_grad_(not freeze_first)
    model.train()
    model.elmo.layers[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    for frozen in (True, False, True):
        model.elmo.requires_grad_(not frozen)
        one, other = model(**inputs).logits, model(**inputs).logits
        assert torch.equal(one, other) == frozen  # unfrozen, the biLM has its dropout at once
        assert {name: module.training for name, module in model.named_modules()} == modes


def test_a_trained_biLM_has_its_dropout_and_gets_gradients():
    model = make(dropout=0.5).train()
    inputs = tokenize(SENTENCES)
    assert model.elmo.training and not torch.equal(model(**inputs)[0], model(**inputs)[0])
    model(**inputs, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("problem", "num_labels", "labels", "formula"),
    [
        ("single_label_classification", 3, torch.tensor([0, 2, 1]), F.cross_entropy),
        (None, 3, torch.tensor([0, 2, -100]), F.cross_entropy),
        ("regression", 1, torch.tensor([0.5, 2, -1]), lambda x, y: F.mse_loss(x[:, 0], y)),
        (None, 1, torch.tensor([[1], [2], [0]]), lambda x, y: F.mse_loss(x, y.float())),
        ("regression", 2, torch.tensor([[0.5, 1], [2, 0], [0, 0]]), F.mse_loss),
        (None, 2, torch.tensor([[0.0, 1], [1, 1], [0, 0]]), F.binary_cross_entropy_with_logits),
        (
            "multi_label_classification",
            2,
            torch.tensor([[0, 1], [1, 1], [0, 0]]),
            lambda x, y: F.binary_cross_entropy_with_logits(x, y.float()),
        ),
    ],
)
def test_each_problem_has_its_loss_and_num_items_scales_its_sum(
    problem, num_labels, labels, formula
):
    model = make(num_labels=num_labels, problem_type=problem)
    output = model(**tokenize(SENTENCES), labels=labels)
    torch.testing.assert_close(output.loss, formula(output.logits, labels))
    number = labels.ne(-100).sum()  # as Trainer counts
    scaled = model(**tokenize(SENTENCES), labels=labels, num_items_in_batch=4 * number).loss
    torch.testing.assert_close(scaled, output.loss / 4)
    guessed = "regression" if num_labels == 1 else "multi_label_classification"
    if labels.ndim == 1 and num_labels > 1:
        guessed = "single_label_classification"
    assert model.config.problem_type == (problem or guessed)


def test_a_pipeline_returns_the_number_of_a_regression():
    model = make(num_labels=1)
    model(**tokenize(SENTENCES), labels=torch.tensor([1.0, 20, 7]))
    torch.nn.init.constant_(model.classifier.bias, 20.0)
    wanted = model(**tokenize("no")).logits.item()
    found = pipeline("text-classification", model=model, tokenizer=TOKENIZER)("no")
    assert found[0]["score"] == pytest.approx(wanted) and wanted > 10


def test_missing_labels_do_not_count_in_the_multi_label_loss():
    model = make(num_labels=2, problem_type="multi_label_classification")
    labels = torch.tensor([[0.0, -100], [-100, 1], [-100, -100]])
    output = model(**tokenize(SENTENCES), labels=labels)
    a, b = output.logits[0, 0], output.logits[1, 1]
    torch.testing.assert_close(output.loss, (F.softplus(a) + F.softplus(-b)) / 2)


@pytest.mark.parametrize("use_crf", [False, True])
def test_batches_without_any_label_have_no_loss_but_a_gradient(use_crf):
    model = make(ElmoForTokenClassification, use_crf=use_crf)
    inputs = tokenize(SENTENCES)
    loss = model(**inputs, labels=torch.full(inputs.attention_mask.shape, -100)).loss
    loss.backward()
    assert abs(loss) < 1e-6 and model.classifier.weight.grad.isfinite().all()


def test_a_crf_trains_on_sentences_and_its_tag_scores_decode_them():
    names = {0: "O", 1: "B-X", 2: "I-X"}
    model = make(
        ElmoForTokenClassification,
        use_crf=True,
        tagging_scheme="BIO",
        id2label=names,
        mix_dropout=0,
        dropout=0,
    )
    inputs = tokenize(SENTENCES)
    words = inputs.attention_mask.bool()
    words[:, 0] = False
    words[torch.arange(3), inputs.attention_mask.sum(1) - 1] = False
    labels = torch.randint(0, 3, words.shape).masked_fill(~words, -100)
    model.train()
    emissions = model(**inputs, labels=labels)
    expected = model.crf(emissions.logits, labels, words).sum() / words.sum()
    torch.testing.assert_close(emissions.loss, expected)
    model.eval()
    decoded = model.decode(**inputs)
    assert (decoded[~words] == -100).all()
    scored = model(**inputs, labels=labels)
    torch.testing.assert_close(scored.loss, emissions.loss)
    assert emissions.tag_scores is None
    torch.testing.assert_close(scored.logits, emissions.logits)  # in either mode
    assert torch.equal(scored.tag_scores.argmax(-1)[words], decoded[words])
    first = decoded[:, 1]
    assert (first != 2).all()  # no sentence begins inside a span


def test_without_a_crf_decoding_is_the_largest_logit():
    model = make(ElmoForTokenClassification)
    inputs = tokenize(["one two"])
    logits = model(**inputs).logits
    assert model.decode(**inputs).tolist() == [[-100, *logits.argmax(-1)[0, 1:3].tolist(), -100]]


def test_a_crf_needs_labels_that_follow_its_scheme():
    with pytest.raises(ValueError, match=r"'LABEL_0' does not belong .* id2label"):
        make(ElmoForTokenClassification, use_crf=True, tagging_scheme="BIOES")


def test_answers_are_searched_in_the_context_and_at_the_first_position():
    model = make(ElmoForQuestionAnswering)
    inputs = tokenize([("who fell ?", "rain fell"), ("why ?", "no one knows why")])
    lowest = torch.finfo(torch.float32).min
    for row, tokens in enumerate(map(inputs.tokens, range(2))):
        context = tokens.index("<S>", 1)
        for scores in model(**inputs)[:2]:
            possible = (scores[row] > lowest).nonzero()[:, 0].tolist()
            end = tokens.index("</S>", context)
            assert possible == [0, *range(context + 1, end)]


def test_positions_outside_of_the_context_are_ignored():
    model = make(ElmoForQuestionAnswering)
    inputs = tokenize([("who ?", "rain fell")] * 2)  # <S> who ? </S> <S> rain fell </S>
    both = model(
        **inputs, start_positions=torch.tensor([5, 99]), end_positions=torch.tensor([6, 1])
    )
    one = tokenize([("who ?", "rain fell")])
    alone = model(**one, start_positions=torch.tensor([5]), end_positions=torch.tensor([6]))
    torch.testing.assert_close(both.loss, alone.loss)
    start = -alone.start_logits[0].log_softmax(-1)[5]
    end = -alone.end_logits[0].log_softmax(-1)[6]
    torch.testing.assert_close(alone.loss, (start + end) / 2)
    with pytest.raises(ValueError, match="pass both"):
        model(**one, start_positions=torch.tensor([5]))


def test_a_single_sentence_may_be_searched_as_a_whole():
    start = make(ElmoForQuestionAnswering)(**tokenize("rain fell")).start_logits[0]
    assert (start > torch.finfo(torch.float32).min).tolist() == [True, True, True, False]


def test_choices_are_scored_one_by_one_in_either_layout():
    model = make(ElmoForMultipleChoice)
    inputs = tokenize(SENTENCES + SENTENCES[::-1])
    stacked = {name: value.unflatten(0, (2, 3)) for name, value in inputs.items()}
    output = model(**stacked, labels=torch.tensor([2, 0]), output_hidden_states=True)
    assert output.logits.shape == (2, 3) and output.hidden_states[0].shape[0] == 6
    alone = torch.cat([model(one[None, None]).logits for one in inputs.input_ids])
    torch.testing.assert_close(output.logits.flatten(), alone[:, 0])
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, torch.tensor([2, 0])))
    flat = {**stacked, "input_ids": stacked["input_ids"].flatten(2)}  # the stock collator's
    torch.testing.assert_close(model(**flat).logits, output.logits)


def test_hidden_states_are_returned_only_if_requested():
    model, inputs = make(), tokenize(SENTENCES)
    assert model(**inputs).hidden_states is None
    assert len(model(**inputs, output_hidden_states=True).hidden_states) == 3
    some = model(**inputs, output_hidden_states=[1]).hidden_states
    assert [layer is None for layer in some] == [True, False, True]
    logits, hidden_states = model(**inputs, output_hidden_states=True, return_dict=False)
    assert logits.shape == (3, 3) and len(hidden_states) == 3


@pytest.mark.parametrize("head", [ElmoForSequenceClassification, ElmoForTokenClassification])
def test_gradients_of_each_example_come_from_one_vmap(head):
    model, ids = make(head), tokenize(["one two three", "four five six"]).input_ids
    whole = head is ElmoForTokenClassification
    labels = torch.randint(3, ids.shape[:2] if whole else (2,))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters, ids, labels):
        inputs = {"input_ids": ids[None], "labels": labels[None]}
        return torch.func.functional_call(model, parameters, kwargs=inputs).loss

    found = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, ids, labels)
    for row in range(2):
        model.zero_grad()
        model(ids[row : row + 1], labels=labels[row : row + 1]).loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][row], parameter.grad, atol=1e-6, rtol=1e-4)


def test_models_that_read_words_know_their_boundaries():
    words = torch.tensor([[1, 4, 5, 2], [1, 6, 2, 0]])
    settings = {"word_vocab_size": 8, "word_embedding_dim": 4, "bos_token_id": 1, "eos_token_id": 2}
    model = make(filters=[], num_highway_layers=0, **settings)
    hidden_states = model.elmo(words, output_hidden_states=True).hidden_states
    mixed = torch.stack(hidden_states).mean(0)
    expected = torch.stack([mixed[0, 1:3].mean(0), mixed[1, 1]])
    torch.testing.assert_close(model(words).logits, model.classifier(expected))
    torch.testing.assert_close(model(word_input_ids=words).logits, model.classifier(expected))
    many = ElmoForMultipleChoice(model.config).eval()
    assert many(words[None]).logits.shape == (1, 2)


def test_inputs_embeds_have_no_boundaries_so_all_words_count():
    model = make(pool_boundaries=True)
    inputs = tokenize(SENTENCES)
    embedded = model.get_input_embeddings()(inputs.input_ids)
    found = model(inputs_embeds=embedded, attention_mask=inputs.attention_mask).logits
    torch.testing.assert_close(found, model(**inputs).logits)


def test_one_base_checkpoint_opens_as_every_head_and_heads_come_back_bit_for_bit(tmp_path):
    base = ElmoModel(ElmoConfig(**TINY))
    base.save_pretrained(tmp_path / "base")
    for auto in (
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
        AutoModelForMultipleChoice,
    ):
        head = auto.from_pretrained(tmp_path / "base", classifier_lstm_dim=4, num_labels=2)
        for name, tensor in base.state_dict().items():
            assert torch.equal(head.elmo.state_dict()[name], tensor), name
        forget = head.task_lstm.lstm.bias_ih_l0.view(4, -1).mean(1)
        assert forget.tolist() == [0, 1, 0, 0] and head.scalar_mix.gamma == 1
        head.save_pretrained(tmp_path / "head")
        again = auto.from_pretrained(tmp_path / "head")
        for name, tensor in head.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_heads_work(tmp_path, dtype):
    make(ElmoForTokenClassification, **VARIANTS["CRF"]).save_pretrained(tmp_path)
    model = ElmoForTokenClassification.from_pretrained(tmp_path, dtype=dtype)
    inputs = tokenize(SENTENCES)
    labels = torch.ones_like(inputs.attention_mask)
    assert model(**inputs, labels=labels).loss.isfinite()


WORDS = tokenize(SENTENCES)


@pytest.mark.parametrize(
    ("head", "labels", "changes", "complaint"),
    [
        (ElmoForSequenceClassification, torch.tensor([0, 1]), {}, r"\(2,\); expected \(3,\)"),
        (
            ElmoForSequenceClassification,
            torch.tensor([0, 1, 3]),
            {},
            "labels hold 3; expected 0 to 2",
        ),
        (ElmoForSequenceClassification, torch.tensor([0, 1, -1]), {}, "hold -1"),
        (
            ElmoForSequenceClassification,
            torch.tensor([0.0, 1, 2]),
            {"problem_type": "single_label_classification"},
            "float32; expected integers",
        ),
        (ElmoForSequenceClassification, torch.zeros(3), {}, r"expected \(3, 3\) for multi_label"),
        (
            ElmoForSequenceClassification,
            torch.zeros(2),
            {"num_labels": 1},
            r"expected \(3,\) for regression",
        ),
        (ElmoForTokenClassification, torch.zeros(3, 5).long(), {}, "boundary words included"),
        (ElmoForTokenClassification, torch.full((3, 7), 4), {}, "num_labels="),
        (ElmoForTokenClassification, torch.full((3, 7), 4), {"use_crf": True}, "labels hold 4"),
    ],
)
def test_errors_name_bad_labels_and_what_was_expected(head, labels, changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        make(head, **changes)(**WORDS, labels=labels)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"tagging_scheme": "BIO"}, "which needs a CRF; pass use_crf=True too"),
        ({"mix_dropout": 1}, "mix_dropout is 1; expected a probability below 1"),
        ({"classifier_lstm_dim": -1}, "classifier_lstm_dim is -1"),
    ],
)
def test_errors_name_invalid_settings_of_heads(fields, complaint):
    with pytest.raises(StrictDataclassClassValidationError, match=complaint):
        ElmoConfig(**fields)


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(batch, choices, words, 50\)"):
        make(ElmoForMultipleChoice)(torch.zeros(2, 3, 7, dtype=torch.long))
    with pytest.raises(ValueError, match=r"start_positions have shape \(2,\); expected \(3,\)"):
        positions = {"start_positions": torch.zeros(2).long(), "end_positions": torch.zeros(3)}
        make(ElmoForQuestionAnswering)(**WORDS, **positions)
    with pytest.raises(TypeError, match="token_type_ids"):
        make()(**WORDS, token_type_ids=None)
