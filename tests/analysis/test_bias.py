"""The study of bias as a whole: data sets, rows, page, card and command."""

import json

import pytest
import torch
from gensim.models import Word2Vec
from helpers.bias import WEAT, write_bias_data

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.analysis import bias_data, bias_report
from elmo_hf.analysis.bias import MEASURES, BiasStudy, count_pronouns
from elmo_hf_cli import main

WORDS = ["<S>", "</S>", "<UNK>", "he", "she", "him", "her", "his", "the", "The", ".", "was", "late"]
TEXT = ["Ann and Bob , Cid and Dan", "Eve and Fay , Gil and Hal", "office pay firm home kin"]
TEXT += [
    "New York , he and she and woman and man",
    "nurse clerk maid baker tailor cook farmer driver judge guard",
    "His hers",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = write_bias_data(tmp_path_factory.mktemp("bias"))
    torch.manual_seed(1)  # not that of the random weights
    sizes = {"filters": [[1, 4], [2, 4]], "projection_dim": 8, "cell_dim": 16}
    ElmoForPreTraining(ElmoConfig(**sizes, lm_vocab_size=len(WORDS))).save_pretrained(root / "tiny")
    ElmoTokenizer(lm_vocab=WORDS).save_pretrained(root / "tiny")
    (root / "text.txt").write_text("\n".join(TEXT * 3))
    sentences = [line.split() for line in TEXT] * 10
    Word2Vec(sentences, vector_size=4, min_count=1, workers=1, seed=0).wv.save(str(root / "w.kv"))
    return root


@pytest.fixture(scope="module")
def page(folder):
    (folder / "card.md").write_text(
        f"# Card\n\n{bias_report.BEGIN}\nFORMER\n{bias_report.END}\nend\n"
    )
    paths = {"--data": "", "-o": "bias.md", "--text": "text.txt", "--training-text": "text.txt"}
    paths |= {"--static": "w.kv", "--card": "card.md"}
    options = [part for flag, name in paths.items() for part in (flag, str(folder / name))]
    assert main(["bias", str(folder / "tiny"), *options, "--contexts", "2"]) == 0
    return (folder / "bias.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(folder, page):
    return json.loads((folder / "bias.json").read_text())["rows"]


def test_every_measure_has_rows_for_every_source(rows):
    assert [*dict.fromkeys(row["measure"] for row in rows)] == [*MEASURES]
    sources = {"tiny", "random weights", "static vectors"}
    for measure, wanted in {
        "weat": sources,
        "occupations": sources,
        "winobias": sources - {"static vectors"},
        "mitigation": {"tiny"},
    }.items():
        assert {row["source"] for row in rows if row["measure"] == measure} == wanted
    layers = ["layer 0", "layer 1", "layer 2"]
    own = [row for row in rows if row["measure"] == "weat" and row["source"] == "tiny"]
    assert [(row["words"], row["layer"]) for row in own] == [
        (words, layer) for words in ("alone", "in context") for layer in layers
    ]
    assert all(row["n"] == 8 and row["lost"] == [] for row in own)
    assert own[0]["p"] == own[0]["p_holm"] and own[0]["exact"]
    assert (own[3]["samples"], own[3]["contexts"]) == (1000, 2)
    methods = {(row["method"], row["test"]) for row in rows if row["measure"] == "mitigation"}
    assert len(methods) == 3 * 4


def test_random_weights_differ_from_the_checkpoint(rows):
    values = [row["value"] for row in rows if row["measure"] == "occupations"]
    assert len({*values}) == 7


def test_the_page_shows_each_value_beside_the_others(folder, page, rows):
    row = next(row for row in rows if row["measure"] == "weat")
    shown = f"| weat6 | layer 0 | {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] |"
    assert shown in page
    assert "| random weights | static vectors |" in page
    for text in ("no proof of absence", "Not measured:", "Blodgett", '"he" and', "## Mitigation"):
        assert text in page
    assert "debiased" not in page
    assert f"`elmo-hf bias {folder / 'tiny'} --data {folder} --output {folder / 'bias.md'}" in page


def test_the_card_s_section_is_replaced(folder, page):
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert card.startswith("# Card") and card.endswith(f"{bias_report.END}\nend\n")
    assert "FORMER" not in card and "| weat6 | Male / Female, Career / Family |" in card
    assert "no proof of absence" in card and "CrowS-Pairs all | shared" in card
    with pytest.raises(ValueError, match="the card lacks the lines"):
        bias_report.put_in_card("# Card", "section")


def test_pronouns_are_counted(folder):
    assert count_pronouns([folder / "text.txt"]) == {"words": 123, "he": 6, "she": 6}


def test_a_string_of_words_in_sent_bias_is_refused(tmp_path):
    broken = WEAT | {"attr1": {"category": "Career", "examples": "office pay"}}
    folder = tmp_path / "sent_bias/tests"
    folder.mkdir(parents=True)
    (folder / "weat6.jsonl").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"attr1 has 'office pay' for .* expected a list"):
        bias_data.read_association_tests(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in bias_data.SOURCES if kind != "ud_en_ewt"])
def test_a_missing_set_says_where_to_get_it(kind, tmp_path):
    read = {
        "sent_bias": bias_data.read_association_tests,
        "winogender": bias_data.read_occupations,
        "winobias": bias_data.read_swaps,
        "crows_pairs": lambda data: bias_data.read_crows_pairs(data, str.split),
        "holistic_bias": bias_data.read_holistic_bias,
    }[kind]
    repository = bias_data.SOURCES[kind][0]
    with pytest.raises(FileNotFoundError, match=f"{kind}.*https://github.com/{repository} .*"):
        read(tmp_path)


def test_a_missing_set_is_found_before_anything_is_measured(folder, tmp_path):
    (tmp_path / "sent_bias").symlink_to(folder / "sent_bias")
    with pytest.raises(FileNotFoundError, match="crows_pairs"):
        next(BiasStudy(folder / "tiny", tmp_path).measure(["weat", "crows_pairs"]))


def test_persons_and_swaps_of_winobias(folder):
    persons = bias_data.read_persons(folder, str.split, "dev")
    assert len(persons) == 44
    assert persons[0].words[persons[0].person] == persons[0].occupation == "nurse"
    assert persons[0].is_female and not persons[9].is_female
    swaps = bias_data.read_swaps(folder)
    assert (swaps["his"], swaps["her"], swaps["cowgirl"]) == ("her", "him", "cowboy")


def test_a_model_without_softmax_has_no_rows_of_probabilities(folder, tmp_path):
    model = ElmoForPreTraining.from_pretrained(folder / "tiny").elmo
    model.config.lm_vocab_size = 0
    model.save_pretrained(tmp_path)
    ElmoTokenizer().save_pretrained(tmp_path)
    found = [*BiasStudy(tmp_path, folder).measure(["winogender", "occupations"])]
    assert "no softmax" in found[0]["not_measured"] and len(found) == 1 + 6
    results = {
        "checkpoint": tmp_path.name,
        "rows": found,
        "date": "",
        "command": "",
        "versions": "",
    }
    assert "no softmax" in bias_report.render_page(results)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--data", "absent", "-o", "bias.md"], "absent does not exist"),
        (["--data", ".", "-o", "bias"], "pass a name that ends with .md"),
        (["--data", ".", "-o", "no/bias.md"], "there is no folder no"),
        (["--data", ".", "-o", "x.md", "--only", "seat"], "expected one of weat, occupations"),
        (["--data", "tiny", "-o", "x.md"], "get it from https://github.com/W4ngatang/sent-bias"),
        (["--data", ".", "-o", "x.md", "--static", "absent.kv"], "absent.kv does not exist"),
        (["--data", ".", "-o", "x.md", "--static", "text.txt"], "no word vectors that gensim"),
        (["--data", ".", "-o", "x.md", "--static", "tiny/config.json"], "no word vectors that"),
    ],
)
def test_the_command_refuses_in_one_line(folder, options, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["bias", "tiny", *options]) > 0
    error = capsys.readouterr().err
    assert message in error
    assert not (folder / "x.md").exists()
