"""The ONNX graph gives PyTorch's vectors, and the export says what it cannot do."""

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import elmo_hf_cli
from elmo_hf import (
    ElmoConfig,
    ElmoForMultipleChoice,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)
from elmo_hf.extras import MissingExtraError
from elmo_hf.integrations import onnx

TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
WORDS = ["<S>", "</S>", "<UNK>", "the", "bank", "."]
TABLE = {"word_vocab_size": len(WORDS) + 1, "word_embedding_dim": 5}
OUTPUT = {"output_embedding_layer": True, "lm_vocab_size": len(WORDS)}
SENTENCES = ["The bank lent him money.", "", "Rain", "It rained for days. " * 20]


def save(folder, kind=ElmoModel, tokenizer=None, **changes):
    torch.manual_seed(0)
    kind(ElmoConfig(**{**TINY, **changes})).save_pretrained(folder)
    (tokenizer or ElmoTokenizer()).save_pretrained(folder)
    return folder


def check_outputs(folder, exported, names, **layers):
    """Compare sentences that the export did not see, alone and together, padded on both sides."""
    session = pytest.importorskip("onnxruntime").InferenceSession(exported / "model.onnx")
    assert [output.name for output in session.get_outputs()] == names
    tokenizer = ElmoTokenizer.from_pretrained(exported)
    kind = onnx._class(ElmoConfig.from_pretrained(folder), **layers)
    model = kind.from_pretrained(folder).eval()
    for side in ("left", "right"):
        for texts in (SENTENCES[:1], SENTENCES[1:2], SENTENCES, SENTENCES[2:] * 4):
            given = {"padding": True, "padding_side": side}
            found = session.run(None, dict(tokenizer(texts, return_tensors="np", **given)))
            with torch.no_grad():
                outputs = model(
                    **tokenizer(texts, return_tensors="pt", **given), output_hidden_states=True
                )
            for name, part in zip(names, found, strict=True):
                expected = expected_output(outputs, name).numpy()
                np.testing.assert_allclose(part, expected, atol=1e-5, rtol=1e-5)


def expected_output(outputs, name):
    if name == "average":
        return sum(outputs.hidden_states) / len(outputs.hidden_states)
    name, _, index = name.partition(".")
    return outputs[name][int(index)] if index else outputs[name]


LAYERS = ["hidden_states.0", "hidden_states.1", "hidden_states.2"]
TAGGER = {"kind": ElmoForTokenClassification, "num_labels": 3}
MODELS = {
    "average": ({}, None, ["average"]),
    "all": ({}, "all", LAYERS),
    "top of one direction": ({"bidirectional": False}, "top", ["last_hidden_state"]),
    "word table": (TABLE, "all", LAYERS),
    "output embeddings": (OUTPUT, "all", [*LAYERS, "hidden_states.3"]),
    "words alone": ({**TABLE, "filters": []}, "top", ["last_hidden_state"]),
    "classifier": (
        {"kind": ElmoForSequenceClassification, "classifier_pooling": "ends"}, None, ["logits"]
    ),
    "tagger": (TAGGER, None, ["logits"]),
    "spans": ({"kind": ElmoForQuestionAnswering}, None, ["start_logits", "end_logits"]),
    "tagger with a CRF": ({**TAGGER, "use_crf": True}, "top", ["last_hidden_state"]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_equals_pytorch_for_other_sentences(name, tmp_path):
    pytest.importorskip("onnxscript")
    changes, layers, names = MODELS[name]
    tokenizer = None
    if changes.keys() & {"word_vocab_size", "lm_vocab_size"}:
        kind = {"use_characters": False} if changes.get("filters") == [] else {"use_word_ids": True}
        tokenizer = ElmoTokenizer(lm_vocab=WORDS, **kind)
    folder = save(tmp_path / "model", tokenizer=tokenizer, **changes)
    differences = onnx.export_onnx(folder, tmp_path / "exported", layers=layers)
    assert [difference.name for difference in differences] == names
    check_outputs(folder, tmp_path / "exported", names, layers=layers)


@pytest.mark.parametrize(
    ("changes", "layers", "message"),
    [
        ({"num_hidden_layers": 1, "num_mixed_lstms": 2}, "top", "one length only"),
        ({**TAGGER, "use_crf": True}, None, "use_crf.*--layers average, top or all"),
        ({**TAGGER, "mix_layer_norm": "bilm-tf"}, None, "mix_layer_norm.*--layers average"),
        ({**TAGGER, "classifier_lstm_dim": 4}, None, "classifier_lstm_dim"),
        ({"kind": ElmoForMultipleChoice}, None, "several texts"),
        ({}, "mix", "expected one of average, top, all"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    tmp_path, changes, layers, message
):
    folder = save(tmp_path / "model", **changes)
    with pytest.raises(onnx.OnnxError, match=message):
        onnx.export_onnx(folder, tmp_path / "exported", layers=layers)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("wrong", [1.0, float("nan")])
def test_a_graph_with_other_results_is_refused(tmp_path, monkeypatch, wrong):
    class Session:
        def __init__(self, file, providers):
            pass

        def run(self, names, inputs):
            return [np.full((*inputs["attention_mask"].shape, 12), wrong, np.float32)]

    monkeypatch.setattr(onnx, "_write", lambda graph, tokenizer, file: file.touch())
    monkeypatch.setattr(pytest.importorskip("onnxruntime"), "InferenceSession", Session)
    folder = save(tmp_path / "model")
    with pytest.raises(onnx.OnnxError, match=r"onnxruntime and PyTorch differ: average.*TOO LARGE"):
        onnx.export_onnx(folder, tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_incomplete_weights_are_refused(tmp_path):
    folder = save(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["embeddings.projection.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(onnx.OnnxError, match=r"incomplete: embeddings\.projection\.bias"):
        onnx.export_onnx(folder, tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_missing_package_is_named_before_the_model_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime .*\[onnx\]"):
        onnx.export_onnx(tmp_path / "missing", tmp_path / "exported")


@pytest.mark.parametrize(
    ("line", "status", "complaint"),
    [
        ("export elmo elmo.onnx", 2, "elmo.onnx is the name of a file; pass a new folder, such as"),
        ("export elmo elmo", 1, "elmo exists already"),
        ("export elmoo new", 1, "no folder elmoo; did you mean elmo?"),
        ("export elmo new --layers mix", 2, "--layers"),
    ],
)
def test_the_command_s_errors_are_one_line(tmp_path, monkeypatch, capsys, line, status, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elmo").mkdir()
    assert elmo_hf_cli.main(line.split()) == status
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and complaint in errors
