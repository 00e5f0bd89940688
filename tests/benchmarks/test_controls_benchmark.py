"""The control models: a masked BERT of WordPieces, and the page that compares it with the biLMs."""

import json
import zipfile
from pathlib import Path

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer

ROOT = Path(__file__).parents[2]
TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "num_sampled_words": 0}
TEXT = "the river rose and the bank fell .\nwe saw the old river .\n\nit was good .\n"
TRAIN = ["--use_cpu", "--report_to", "none", "--disable_tqdm", "true", "--max_steps", "1"]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    for folder in ("examples", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


@pytest.fixture
def control(tmp_path):
    """The folder of the texts and pieces, without models."""
    import subword_control

    (tmp_path / "text.txt").write_text(TEXT * 200)
    text = [str(tmp_path / "text.txt")]
    subword_control.prepare(tmp_path / "control", text, text, 3000, 45)
    return tmp_path / "control"


def test_bert_has_as_many_parameters_as_the_bilm():
    import masked_control
    import subword_control

    bilm = subword_control.count_parameters(subword_control.encoder_config(subword_control.CONFIG))
    parameters = sum(bilm.values())
    bert = masked_control.count_parameters(masked_control.make_config(8002, 6, parameters))
    assert 0.99 * parameters < bert < 1.01 * parameters


def test_the_tokenizer_frames_and_masks_the_pieces_of_the_words(control):
    import masked_control

    tokenizer = masked_control.load_tokenizer(control)
    encoding = tokenizer(["the", "riverbank", "a<S>b"], is_split_into_words=True)
    assert encoding.word_ids(0)[:2] == [None, 0] and encoding.word_ids(0)[-2:] == [2, None]
    assert encoding.tokens()[0] == "<S>" and encoding.tokens().count("<S>") == 1
    config = masked_control.make_config(len(tokenizer), 2, 600_000)
    for name in ("pad_token_id", "cls_token_id", "sep_token_id"):
        assert getattr(config, name) == getattr(tokenizer, name)
    windows = masked_control.read_windows(tokenizer, control / "characters-train.txt")
    assert {len(window["input_ids"]) for window in windows} == {masked_control.WINDOW}


def test_muon_trains_the_matrices_of_the_layers_and_adamw_all_else(control):
    import masked_control

    model = masked_control.ModernBertForMaskedLM(masked_control.make_config(50, 2, 600_000))
    _, training = masked_control.parse_arguments([str(control), "--use_cpu"])
    matrices, others = masked_control.make_optimizer(model, training, 0.02).param_groups
    assert all(weight.ndim == 2 for weight in matrices["params"]) and matrices["lr"] == 0.02
    assert len(matrices["params"]) == 2 * 4  # each layer: attention and MLP, in and out
    everything = {id(weight) for weight in model.parameters()}
    assert {id(w) for group in (matrices, others) for w in group["params"]} == everything


def test_a_piece_is_predicted_without_the_later_pieces_of_its_word(control, monkeypatch):
    import masked_control

    tokenizer = masked_control.load_tokenizer(control)
    torch.manual_seed(0)
    config = masked_control.make_config(len(tokenizer), 2, 600_000)
    model = masked_control.ModernBertForMaskedLM(config).eval()
    words = ["the", "fell", "rose"]
    ids = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    owners, mask = ids.word_ids(0), tokenizer.mask_token_id
    assert len(owners) > 2 + len(words)
    expected = 0.0
    for place, owner in enumerate(owners):
        if owner is None:
            continue
        masked = ids["input_ids"].clone()
        for i in range(place, len(owners)):
            if owners[i] == owner:
                masked[0, i] = mask
        scores = model(masked).logits[0, place].log_softmax(-1)
        expected += scores[ids["input_ids"][0, place]].item()
    monkeypatch.setattr(masked_control, "ROWS", 2)
    found = [*masked_control.score_sentences(model, tokenizer, [words, ["the"], words])]
    assert found[0] == pytest.approx((expected, False)) and found[2] == pytest.approx(found[0])
    assert next(masked_control.score_sentences(model, tokenizer, [["\u0416"]]))[1]


def test_the_head_learns_what_one_layer_says(monkeypatch):
    import controls

    torch.manual_seed(0)
    words = [torch.randint(0, 2, (n,)) for n in (3, 5, 4, 6) * 8]
    layers = [torch.stack([torch.randn(len(w), 4), w[:, None] * torch.ones(4)]) for w in words]
    head = controls.train_head(layers, words, 2, False, 0)
    found = controls.predict(head, layers, [len(w) for w in words])
    assert all(map(torch.equal, found, words))
    pooled = [w.float().mean().gt(0.5).long()[None] for w in words]
    head = controls.train_head(layers, pooled, 2, True, 0)
    found = controls.predict(head, layers, [1] * len(words))
    assert sum(map(torch.equal, found, pooled)) > 0.8 * len(words)


@pytest.mark.slow
def test_all_three_are_trained_and_measured(control, tmp_path, capsys):
    import controls
    import masked_control
    import subword_control

    settings = json.loads((control / "settings.json").read_text())
    torch.manual_seed(0)
    for name, fields, tokenizer in (
        ("characters", {}, ElmoTokenizer(lm_vocab=["<S>", "</S>", "<UNK>", "the", "river"])),
        (
            "pieces",
            subword_control.piece_fields(TINY, settings["pieces"]),
            ElmoTokenizer(use_characters=False, lm_vocab_file=str(control / "pieces.txt")),
        ),
    ):
        config = ElmoConfig(**{**TINY, **fields}, lm_vocab_size=tokenizer.lm_vocab_size)
        ElmoForPreTraining(config).save_pretrained(control / name)
        tokenizer.save_pretrained(control / name)
    assert masked_control.main([str(control), "--layers", "1", *TRAIN]) == 0
    for part in ("train", "test"):
        (tmp_path / "data/trec_qc").mkdir(parents=True, exist_ok=True)
        rows = "HUM:ind Who rose ?\nLOC:city Where is the bank ?\n"
        (tmp_path / f"data/trec_qc/{part}.txt").write_text(rows)
    pair = {"UID": "a", "linguistics_term": "t", "field": "syntax"}
    pair |= {"sentence_good": "The river rose.", "sentence_bad": "The river the."}
    (tmp_path / "data/blimp").mkdir()
    with zipfile.ZipFile(tmp_path / "data/blimp/blimp_data.zip", "w") as archive:
        archive.writestr("a.jsonl", json.dumps(pair))
    arguments = [str(control), "--data", str(tmp_path / "data"), "--tasks", "trec", "blimp"]
    arguments += ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "page.md")]
    assert controls.main(arguments) == 0
    page = (tmp_path / "page.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|")]
    names = [name.split(",")[0] for name in rows[0].split(" | ")]
    assert names == ["|", "characters", "WordPiece", "masked BERT"]
    assert [row.split(" | ")[0] for row in rows[2:]] == [
        "| trec",
        "| mean of the 1 tasks",
        "| BLiMP",
    ]
    assert [row.count("±") for row in rows[2:]] == [3, 0, 0]
    results = json.loads((tmp_path / "page.json").read_text())
    assert controls.markdown(results) == page


def test_the_committed_page_shows_the_committed_figures():
    import controls

    page = ROOT / "benchmarks/controls.md"
    results = json.loads(page.with_suffix(".json").read_text())
    assert controls.markdown(results) == page.read_text(encoding="utf-8")


def test_a_folder_without_text_is_one_clear_error(tmp_path, capsys):
    import masked_control

    assert masked_control.main([str(tmp_path)]) == 1
    assert "has no text; write it with python benchmarks/subword" in capsys.readouterr().err
