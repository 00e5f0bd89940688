"""The output embeddings of words as one more layer: loaded, computed, trained, saved and used."""

import pickle
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

import elmo_hf_cli
from elmo_hf import (
    ElmoConfig,
    ElmoEmbedder,
    ElmoForPreTraining,
    ElmoModel,
    ElmoTokenizer,
    embed_corpus,
    open_vectors,
)
from elmo_hf.model.modeling_inputs import Inputs

WORDS = ["<S>", "</S>", "<UNK>", "the", "bank", "rained", "."]
TEXTS = ["the bank rained .", "the quokka"]
HEADS = [
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForQuestionAnswering,
    AutoModelForMultipleChoice,
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a language model and its vocabulary, as pre-training writes it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]]}
    model = ElmoForPreTraining(ElmoConfig(**config, dropout=0, lm_vocab_size=len(WORDS)))
    model.save_pretrained(folder)
    ElmoTokenizer(lm_vocab=WORDS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(checkpoint, tmp_path_factory):
    """A folder that was saved with the layer, which needs no setting."""
    folder = tmp_path_factory.mktemp("saved")
    AutoModel.from_pretrained(checkpoint, output_embedding_layer=True).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint, use_word_ids=True).save_pretrained(folder)
    return folder


def encode(folder, texts=TEXTS, **settings):
    tokenizer = AutoTokenizer.from_pretrained(folder, **settings)
    return tokenizer(texts, padding=True, return_tensors="pt")


def rows(checkpoint, *words):
    """What the layer holds: the softmax's rows with the table's deviation 1, in both halves."""
    weight = AutoModelForPreTraining.from_pretrained(checkpoint).lm_head.weight.detach()
    ids = [WORDS.index(word) for word in words]
    return (weight / weight.std())[ids].repeat(1, 2)


def test_the_layer_is_the_rows_of_the_softmax_and_the_others_stay(checkpoint):
    inputs = encode(checkpoint, use_word_ids=True)
    model = AutoModel.from_pretrained(checkpoint, output_embedding_layer=True)
    found = model(**inputs, output_hidden_states=True)
    plain = AutoModel.from_pretrained(checkpoint)
    expected = plain(inputs.input_ids, inputs.attention_mask, output_hidden_states=True)
    *layers, added = found.hidden_states
    torch.testing.assert_close(layers, list(expected.hidden_states))
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    torch.testing.assert_close(
        added[0], rows(checkpoint, "<S>", "the", "bank", "rained", ".", "</S>")
    )
    torch.testing.assert_close(added[1, :4], rows(checkpoint, "<S>", "the", "<UNK>", "</S>"))
    assert not added[1, 4:].any()  # padding


def test_words_that_the_mask_hides_have_zero_rows(saved):
    model, inputs = AutoModel.from_pretrained(saved), encode(saved)
    inputs["attention_mask"][:, 1] = 0
    added = model(**inputs, output_hidden_states=3).hidden_states[3]
    assert not added[:, 1].any()
    assert added[:, 0].all()


@pytest.mark.parametrize(
    "head, lstm",
    [(AutoModelForTokenClassification, 0), (AutoModelForSequenceClassification, 5)],
)
def test_heads_concatenate_the_layer_to_the_mix(checkpoint, tmp_path, head, lstm):
    model = head.from_pretrained(
        checkpoint,
        output_embedding_layer=True,
        mix_layers=[0, 1, 2],
        concat_layers=[-1],
        classifier_lstm_dim=lstm,
    )
    inputs = encode(checkpoint, use_word_ids=True)
    hidden = model.elmo(**inputs, output_hidden_states=True).hidden_states
    task = model.eval().encode(Inputs(**inputs))
    if not lstm:
        expected = torch.cat([sum(hidden[:3]) / 3, hidden[3]], -1)
        torch.testing.assert_close(task.vectors, expected)
    assert task.vectors.shape[-1] == (2 * lstm or 24)
    before = model(**inputs)[0]
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(head.from_pretrained(tmp_path)(**inputs)[0], before)


@pytest.mark.parametrize("head", HEADS)
def test_heads_mix_the_layer_and_are_saved_with_it(checkpoint, tmp_path, head):
    model = head.from_pretrained(checkpoint, output_embedding_layer=True, num_labels=3)
    inputs = encode(checkpoint, use_word_ids=True)
    if head is AutoModelForMultipleChoice:
        inputs = {name: ids[None] for name, ids in inputs.items()}
    model.scalar_mix.weights.data[:] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    before = model(**inputs)[0]
    model.save_pretrained(tmp_path)
    loaded, info = head.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys"))
    torch.testing.assert_close(loaded(**inputs)[0], before)
    loaded.elmo.lm_head.weight.data.zero_()
    loaded.reset_engines()
    assert not torch.allclose(loaded(**inputs)[0], before)


def test_a_saved_folder_needs_no_setting_and_no_softmax(saved, checkpoint):
    inputs = encode(saved)
    assert "word_input_ids" in inputs
    model = AutoModel.from_pretrained(checkpoint, output_embedding_layer=True)
    expected = model(**inputs, output_hidden_states=True).hidden_states
    for loaded in (
        AutoModel.from_pretrained(saved),
        AutoModelForSequenceClassification.from_pretrained(saved).elmo,
    ):
        found = loaded(**inputs, output_hidden_states=True).hidden_states
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    plain = AutoModel.from_pretrained(saved, output_embedding_layer=False)
    assert len(plain(**encode(saved, use_word_ids=False), output_hidden_states=True)[1]) == 3


@pytest.mark.parametrize("trains", [pytest.param(False, marks=pytest.mark.slow), True])
def test_trainer_learns_with_a_frozen_and_a_trained_bilm(checkpoint, tmp_path, trains):
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, output_embedding_layer=True
    )
    model.elmo.requires_grad_(trains)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, use_word_ids=True)
    data = [{**tokenizer(text), "labels": i % 2} for i, text in enumerate(TEXTS * 2)]
    table, scale = model.elmo.lm_head.weight.clone(), model.elmo.lm_head.scale.clone()
    options = {"max_steps": 2, "learning_rate": 0.1, "use_cpu": True, "report_to": []}
    trainer = Trainer(
        model,
        TrainingArguments(tmp_path, save_steps=2, **options),
        train_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    assert model.scalar_mix.weights.any()
    assert torch.equal(model.elmo.lm_head.weight, table) is not trains
    assert torch.equal(model.elmo.lm_head.scale, scale)
    folder = tmp_path / "checkpoint-2"
    model.eval()
    given = encode(folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(loaded(**given).logits, model(**given).logits)
    labels = pipeline("text-classification", str(folder), device="cpu")(TEXTS)
    best = model(**given).logits.softmax(-1).amax(-1).tolist()
    assert [one["score"] for one in labels] == pytest.approx(best, abs=1e-5)


def test_embedder_and_command_have_the_layer(saved, checkpoint, tmp_path):
    embedder = ElmoEmbedder(saved, layers="all")
    model = AutoModel.from_pretrained(saved)
    with torch.no_grad():
        hidden = model(**encode(saved), output_hidden_states=True).hidden_states
    expected = torch.stack(hidden)[:, 0, 1:-1].numpy()
    np.testing.assert_allclose(next(embedder.embed(TEXTS)), expected, atol=1e-5)
    for layers, vectors in (
        (3, expected[3]),
        (-1, expected[3]),
        ("top", expected[2]),
        ("average", expected.mean(0)),
    ):
        one = next(ElmoEmbedder(saved, layers=layers).embed(TEXTS))
        np.testing.assert_allclose(one, vectors, atol=1e-5)
    chunked = next(ElmoEmbedder(saved, layers="all", chunk_words=2).embed(TEXTS))
    np.testing.assert_allclose(chunked, expected, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    np.testing.assert_allclose(next(embed_corpus(model, tokenizer, TEXTS)), expected, atol=1e-5)
    one_setting = ElmoEmbedder(checkpoint, layers="all", output_embedding_layer=True)
    again = pickle.loads(pickle.dumps(one_setting))
    np.testing.assert_allclose(next(again.embed(TEXTS)), expected, atol=1e-5)
    assert len(next(ElmoEmbedder(checkpoint, layers="all").embed(TEXTS))) == 3
    in_memory = ElmoEmbedder(model, tokenizer, layers="all")
    assert one_setting.fingerprint() == in_memory.fingerprint() == embedder.fingerprint()
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    files = [str(tmp_path / "text.txt"), str(tmp_path / "vectors"), "-m", str(checkpoint)]
    assert elmo_hf_cli.main(["embed", *files, "--all", "--output-embeddings"]) == 0
    np.testing.assert_allclose(open_vectors(tmp_path / "vectors")[0], expected, atol=1e-5)


def test_resizing_the_character_table_leaves_the_rows(saved):
    model = AutoModelForSequenceClassification.from_pretrained(saved)
    table = model.elmo.lm_head.weight
    for one in (model, model.elmo):
        one.resize_token_embeddings(300)
        assert one.get_output_embeddings() is None
    assert model.elmo.lm_head.weight is table


def test_config_json_alone_adds_the_layer(checkpoint, tmp_path):
    """A checkpoint can be published with the layer: its weights stay as they are."""
    AutoModelForPreTraining.from_pretrained(checkpoint).save_pretrained(tmp_path)
    config = ElmoConfig.from_pretrained(checkpoint, output_embedding_layer=True)
    config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(checkpoint, use_word_ids=True).save_pretrained(tmp_path)
    (vectors,) = ElmoEmbedder(tmp_path, layers=3).embed([["bank"]])
    np.testing.assert_allclose(vectors, rows(checkpoint, "bank"), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_layer_has_the_dtype_of_the_model(checkpoint, dtype):
    model = AutoModel.from_pretrained(checkpoint, output_embedding_layer=True, dtype=dtype)
    hidden = model(**encode(checkpoint, use_word_ids=True), output_hidden_states=True)[1]
    assert {layer.dtype for layer in hidden} == {dtype}
    expected = rows(checkpoint, "bank")[0].to(dtype)
    torch.testing.assert_close(hidden[3][0, 2], expected, rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_the_folder_loads_without_the_package(saved):
    program = (
        "import sys; sys.modules['elmo_hf'] = None\n"
        "from transformers import AutoModelForSequenceClassification as Head, AutoTokenizer\n"
        f"model = Head.from_pretrained({str(saved)!r}, trust_remote_code=True)\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(saved)!r}, trust_remote_code=True)\n"
        "inputs = tokenizer('the bank', return_tensors='pt')\n"
        "assert len(model(**inputs, output_hidden_states=True).hidden_states) == 4\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_errors_say_what_is_missing(checkpoint, saved, tmp_path):
    ElmoModel(ElmoConfig(cell_dim=12, projection_dim=6, filters=[[1, 4]])).save_pretrained(tmp_path)
    AutoModel.from_pretrained(checkpoint).save_pretrained(tmp_path / "no softmax")
    for kind, folder in product(
        (AutoModel, AutoModelForSequenceClassification), (tmp_path, tmp_path / "no softmax")
    ):
        with pytest.raises(ValueError, match=r"hold neither such a layer nor a softmax"):
            kind.from_pretrained(folder, output_embedding_layer=True)
    with pytest.raises(Exception, match=r"lm_vocab_size is 0.*leave output_embedding_layer out"):
        ElmoConfig(output_embedding_layer=True)
    with pytest.raises(Exception, match=r"has a word table"):
        ElmoConfig(
            output_embedding_layer=True, lm_vocab_size=7, word_vocab_size=8, word_embedding_dim=2
        )
    with pytest.raises(Exception, match=r"concat_layers is \[3\]; expected indices from 0 .* to 2"):
        ElmoConfig(concat_layers=[3])
    with pytest.raises(Exception, match=r"it has more parts; pass classifier_lstm_dim"):
        ElmoConfig(concat_layers=[2], classifier_pooling="ends")
    with pytest.raises(ValueError, match=r"softmax already holds these vectors"):
        AutoModelForPreTraining.from_pretrained(checkpoint, output_embedding_layer=True)
    model = AutoModel.from_pretrained(saved)
    with pytest.raises(ValueError, match=r"word_input_ids are missing.*use_word_ids=True"):
        model(**encode(checkpoint))
    inputs = encode(saved)
    inputs["word_input_ids"][0, 0] = 8
    with pytest.raises(ValueError, match=r"range from 0 to 8; expected 0 to 7 \(lm_vocab_size"):
        model(**inputs)
    with pytest.raises(ValueError, match="word ids need a vocabulary"):
        ElmoTokenizer(use_word_ids=True)


def test_a_table_without_its_scale_gets_one(saved, tmp_path):
    AutoModel.from_pretrained(saved).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")  # maps the file, which is written anew
    weights = {name: tensor.clone() for name, tensor in stored.items()}
    scale = weights.pop("lm_head.scale")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path).lm_head.scale, scale)
