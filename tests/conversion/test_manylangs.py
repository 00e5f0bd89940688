"""ELMoForManyLangs models to a folder, verified."""

import json
import zipfile

import numpy as np
import pytest
import torch
from helpers.gold import CLOSE, GOLD
from helpers.torch_originals import (
    SETTINGS,
    WORDS,
    manylangs_tensors,
    refuses,
    write_bite,
    write_manylangs,
)

from conversion.convert import main
from elmo_hf import ElmoModel, ElmoTokenizer
from elmo_hf.conversion.convert import convert
from elmo_hf.conversion.manylangs import NAMES, read_dictionary
from elmo_hf.conversion.tables import WeightsError
from elmo_hf.conversion.torch_files import dump_rows, encoder_table


def settings(**changes):
    """Settings with `section__name` changed."""
    made = json.loads(json.dumps(SETTINGS))
    for name, value in changes.items():
        section, key = name.split("__")
        made[section][key] = value
    return made


VARIANTS = {
    "words and characters": settings(),
    "characters": settings(token_embedder__word_dim=0),
    "words": settings(token_embedder__char_dim=0),
    "no highway": settings(token_embedder__n_highway=0, token_embedder__activation="relu"),
    "no clips": settings(encoder__cell_clip=None, encoder__proj_clip=0),
    "one layer": settings(encoder__n_layers=1),
    "no biLM": settings(encoder__name="lstm", encoder__n_layers=3),
    "equal widths": settings(encoder__dim=6, token_embedder__word_dim=-1, encoder__n_layers=3),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_converts_and_back(tmp_path, variant):
    made_of = VARIANTS[variant]
    record = convert(write_manylangs(tmp_path / "o", made_of), tmp_path / "ours")
    layers = 1 if made_of["encoder"]["name"] == "lstm" else made_of["encoder"]["n_layers"]
    assert len(record["verification"]["differences"]) == layers + 1
    assert record["notes"] == []
    assert record["source"]["format"] == "ELMoForManyLangs"
    assert record["word_splitter"] == "treebank"
    model = ElmoModel.from_pretrained(tmp_path / "ours")
    weights = {f"elmo.{name}": tensor for name, tensor in model.state_dict().items()}
    back = dump_rows(encoder_table(model.config, NAMES), weights)
    for file, tensors in manylangs_tensors(made_of).items():
        for name, tensor in tensors.items():
            assert torch.equal(back.pop(f"{file.removesuffix('.pkl')}.{name}"), tensor), name
    assert not back


def test_a_zip_of_the_folder_gives_the_same(tmp_path):
    folder = write_manylangs(tmp_path / "o")
    with zipfile.ZipFile(tmp_path / "144.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"deep/{path.name}")
    for source in (folder, tmp_path / "144.zip"):
        assert main([str(source), str(tmp_path / f"{source.name} ours")]) == 0
    first, second = (tmp_path / f"{name} ours/model.safetensors" for name in ("o", "144.zip"))
    assert first.read_bytes() == second.read_bytes()


def test_words_are_encoded_between_swapped_markers_and_cut(tmp_path):
    convert(write_manylangs(tmp_path / "o"), tmp_path / "ours")
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "ours")
    inputs = tokenizer([["the", "日本語", "abcdefghi", "é😀"]], is_split_into_words=True)
    characters = read_dictionary(tmp_path / "o/char.dic")
    begin, end, unknown = (characters[mark] + 1 for mark in ("<eow>", "<bow>", "<oov>"))
    assert inputs["input_ids"][0][1][:5] == [begin, *(characters[c] + 1 for c in "the"), end]
    assert inputs["input_ids"][0][3][-1] == end  # cut to seven characters
    assert inputs["input_ids"][0][4][1:3] == [characters["é"] + 1, unknown]
    assert inputs["word_input_ids"][0] == [2, 5, 5 + WORDS.index("日本語"), 1, 1, 3]


def test_settings_come_from_the_folder_or_the_released_models(tmp_path, capsys):
    folder = write_manylangs(tmp_path / "o")
    (folder / "settings.json").rename(tmp_path / "mine.json")
    complaint = "has shape (9, 5); expected (9, 100) by the released models' settings"
    refuses(tmp_path, folder, complaint=complaint, capsys=capsys)
    named = ["--options", tmp_path / "mine.json", folder, tmp_path / "named"]
    assert main([str(a) for a in named]) == 0


def test_an_entry_that_strips_away_is_the_ideographic_space(tmp_path):
    (tmp_path / "a.dic").write_text("<bos>\t0\n<eos>\t1\n<oov>\t2\n\u3000\t3\nx\t4\n", "utf-8")
    assert read_dictionary(tmp_path / "a.dic")["\u3000"] == 3


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("char.dic", "a 1\n", "char.dic, line 1: 'a 1' is not an entry, a tab and an id"),
        ("char.dic", "a\t1\n", "char.dic lacks the entries ['<bos>', '<eos>', '<oov>']"),
        ("word.dic", b"\xff\xfe", "word.dic is not UTF-8"),
        ("word.dic", None, "word.dic is missing"),
        ("word.dic", "<oov>\t0\n<bos>\t1\n<eos>\t999999999999\n", "has shape (9, 5); expected"),
        ("settings.json", "{'a'", "settings.json is not readable JSON"),
        ("settings.json", "[]", "settings.json is a JSON list or value"),
        ("settings.json", '{"encoder": 3}', "has no section 'encoder'"),
        (
            "settings.json",
            json.dumps(settings(encoder__name="gru")),
            "the encoder is 'gru'; expected 'elmo'",
        ),
        ("settings.json", json.dumps(settings(token_embedder__name="lstm")), "expected 'cnn'"),
        ("settings.json", json.dumps(settings(encoder__dim="8")), "encoder.dim is '8'; expected"),
        ("settings.json", json.dumps(settings(encoder__dim=-8)), "are not of an ELMo model"),
        ("settings.json", json.dumps(settings(encoder__dim=9)), "has shape (32, 6); expected"),
        (
            "settings.json",
            json.dumps(settings(encoder__n_layers=3)),
            "forward_layer_2.input_linear",
        ),
        ("encoder.pkl", b"\x80\x02}", "encoder.pkl is damaged or holds more"),
    ],
)
def test_damaged_models_are_refused(tmp_path, capsys, name, content, complaint):
    path = write_manylangs(tmp_path / "o") / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refuses(tmp_path, tmp_path / "o", complaint=complaint, capsys=capsys)


def test_code_in_a_pickle_is_not_run(tmp_path, capsys):
    folder = write_manylangs(tmp_path / "o")
    bitten = write_bite(folder / "encoder.pkl", plain=True)
    refuses(tmp_path, folder, complaint="which is never run", capsys=capsys)
    assert not bitten.exists()


def test_half_of_a_model_is_refused(tmp_path, capsys):
    folder = write_manylangs(tmp_path / "o")
    whole = (folder / "encoder.pkl").read_bytes()
    (folder / "encoder.pkl").unlink()
    refuses(tmp_path, folder, complaint="encoder.pkl is missing", capsys=capsys)
    (folder / "encoder.pkl").write_bytes(whole)
    (folder / "token_embedder.pkl").unlink()
    refuses(tmp_path, folder, complaint="token_embedder.pkl is missing", capsys=capsys)


def test_the_original_programs_vectors_come_out_of_the_command(tmp_path):
    assert main([str(GOLD / "efml_cnn_word"), str(tmp_path / "ours")]) == 0
    model = ElmoModel.from_pretrained(tmp_path / "ours").eval()
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "ours")
    gold = np.load(GOLD / "efml_cnn_word/gold.npz")
    sentences = json.loads((GOLD / "efml_cnn_word/sentences.json").read_text("utf-8"))
    inputs = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
    states = None
    for call in ("call1", "call2"):
        with torch.no_grad():
            output = model(**inputs, states=states, use_cache=True, output_hidden_states=True)
        states = output.states
        found = torch.stack(output.hidden_states, 1).numpy()
        for row, sentence in enumerate(sentences):
            ours = found[row, :, 1 : len(sentence) + 1]
            np.testing.assert_allclose(ours, gold[f"{call}/{row}"], **CLOSE)
            if call == "call1":
                np.testing.assert_allclose(ours.mean(0), gold[f"avg/{row}"], **CLOSE)


def test_a_dictionary_without_lines_is_refused(tmp_path):
    (tmp_path / "a.dic").write_text("")
    with pytest.raises(WeightsError):
        read_dictionary(tmp_path / "a.dic")
