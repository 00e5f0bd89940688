"""spaCy pipelines have ELMo's vectors, and spaCy's own components learn from them."""

import os
import pickle
import random
import re
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import spacy
import torch
from helpers.documents import ROOT, blocks
from spacy.tokens import Doc, DocBin
from spacy.training import Example

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer
from elmo_hf.integrations.spacy import set_hooks
from elmo_hf_spacy import make_doc_tensor, make_elmo

WIDTH = 12
TEXTS = ["The river  rose. It\n\nrained.", "", " \n", "Bank"]
SENTENCES = [["The", "river", "rose", "."], ["It", "rained", "."], ["Bank"]]
ROWS = [0, 1, 3, 4, 5, 7, 8]  # the words of the first text; the others are whitespace
MESSAGES = pytest.mark.filterwarnings("ignore:.*Unable to save user hooks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    sizes = {"filters": [[1, 4], [2, 5]], "projection_dim": 6, "cell_dim": 8}
    ElmoModel(ElmoConfig(**sizes)).save_pretrained(path)
    ElmoTokenizer().save_pretrained(path)
    return str(path)


def make_pipeline(folder, **config):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo", config={"model": folder, **config})
    return nlp


@pytest.fixture(scope="module")
def nlp(folder):
    return make_pipeline(folder)


def test_weights_are_not_read_again_for_each_text(folder, monkeypatch):
    nlp = make_pipeline(folder)
    monkeypatch.setattr(ElmoEmbedder, "fingerprint", lambda self: 1 / 0)
    assert all(doc.tensor.any() for doc in nlp.pipe(TEXTS[::3]))


@pytest.mark.parametrize("layers", ["average", "top", 0, [2, 0], "all"])
def test_every_token_has_the_vector_of_its_word_in_its_sentence(folder, layers):
    nlp = make_pipeline(folder, layers=layers)
    first, second, last = ElmoEmbedder(folder, layers=layers).embed(SENTENCES, join=True)
    for docs in ([*map(nlp, TEXTS)], [*nlp.pipe(TEXTS, batch_size=3)]):
        shapes = [(9, first.shape[1]), (0, first.shape[1]), (1, first.shape[1])]
        assert [doc.tensor.shape for doc in docs[:3]] == shapes
        tensor = docs[0].tensor
        np.testing.assert_allclose(tensor[ROWS], [*first, *second], atol=1e-6)
        assert not tensor[[2, 6]].any() and not docs[2].tensor.any()
        np.testing.assert_allclose(docs[3].tensor, last, atol=1e-6)


def test_a_document_is_one_sentence_only_if_told_so(folder):
    nlp = make_pipeline(folder, use_sentences=False)
    words = [[*SENTENCES[0], *SENTENCES[1]]]
    expected = next(ElmoEmbedder(folder).embed(words))
    np.testing.assert_allclose(nlp(TEXTS[0]).tensor[ROWS], expected, atol=1e-6)
    nlp = make_pipeline(folder)
    nlp.remove_pipe("sentencizer")
    with pytest.raises(ValueError, match=r'no sentence boundaries.*"sentencizer", before="elmo"'):
        nlp(TEXTS[0])


def cosine(one, two):
    return one @ two / np.linalg.norm(one) / np.linalg.norm(two)


@MESSAGES
@pytest.mark.parametrize("static", [False, True])
def test_vectors_and_similarities_are_elmos(folder, static):
    nlp = make_pipeline(folder)
    if static:
        nlp.vocab.set_vector("river", np.ones(3, np.float32))
    doc, empty, blank, other = nlp.pipe(TEXTS)
    again = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert (again[1].vector.shape == (3,)) == static
    set_hooks(again)
    tensor = doc.tensor
    for one in (doc, again):
        np.testing.assert_array_equal(one[1].vector, tensor[1])
        np.testing.assert_allclose(one[0:3].vector, tensor[:3].mean(0), atol=1e-6)
        np.testing.assert_allclose(one.vector, tensor.mean(0), atol=1e-6)
        for item in (one[1], one[0:3], one):
            assert item.has_vector
            assert item.vector_norm == pytest.approx(np.linalg.norm(item.vector), abs=1e-6)
            expected = cosine(item.vector, other.vector)
            assert item.similarity(other) == pytest.approx(expected, abs=1e-6)
    for one in (empty, blank):
        assert one.vector.shape == (WIDTH,) and not one.has_vector and one.similarity(doc) == 0


@MESSAGES
def test_without_hooks_the_vectors_of_serialized_documents_are_the_same(nlp):
    doc = nlp(TEXTS[0])
    again = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    for one, other in ((doc, again), (doc[0:3], again[0:3]), (doc[1], again[1])):
        np.testing.assert_allclose(one.vector, other.vector, atol=1e-6)


@MESSAGES
@pytest.mark.slow
def test_two_processes_give_what_one_gives(nlp):
    alone = [*nlp.pipe(TEXTS)]
    for one, other in zip(alone, nlp.pipe(TEXTS, n_process=2, batch_size=2), strict=True):
        np.testing.assert_allclose(one.tensor, other.tensor, atol=1e-6)


def test_errors_of_a_batch_reach_the_error_handler(folder):
    nlp = make_pipeline(folder)
    nlp.remove_pipe("sentencizer")
    failed = []
    nlp.set_error_handler(lambda name, proc, docs, error: failed.append((name, len(docs))))
    assert not [*nlp.pipe(["No boundaries.", "None"])]
    assert failed == [("elmo", 2)]


def test_saved_pipelines_hold_no_weights_and_refuse_others(folder, nlp, tmp_path):
    nlp.to_disk(tmp_path / "saved")
    assert sum(f.stat().st_size for f in (tmp_path / "saved/elmo").iterdir()) < 200
    assert len(pickle.dumps(nlp.get_pipe("elmo"))) < 2000
    tensor = nlp(TEXTS[0]).tensor
    same = spacy.blank("en", config=nlp.config)
    for again in (spacy.load(tmp_path / "saved"), same.from_bytes(nlp.to_bytes())):
        np.testing.assert_array_equal(again(TEXTS[0]).tensor, tensor)
        again.to_disk(tmp_path / "again")  # loaded, saved and loaded
    changed = {"components.elmo.layers": "top"}
    for path in ("saved", "again"):
        with pytest.raises(RuntimeError, match="saved with other weights"):
            spacy.load(tmp_path / path, config=changed)("A text")


def test_a_folder_that_is_missing_is_named():
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        spacy.blank("en").add_pipe("elmo", config={"model": "nowhere"})


# --- Training ---


def make_examples(count):
    nlp, chooser = spacy.blank("en"), random.Random(0)
    kinds = {"Ada": "B-PER", "Mary": "B-PER", "Paris": "B-LOC", "London": "B-LOC"}
    for _ in range(count):
        one, two = chooser.sample([*kinds], 2)
        words = [one, chooser.choice(["met", "saw", "left"]), two, "."]
        tags, entities = ["N", "V", "N", "."], [kinds.get(word, "O") for word in words]
        yield Doc(nlp.vocab, words=words, tags=tags, ents=entities)


def make_tagger(folder, width=WIDTH):
    nlp = make_pipeline(folder)
    layer = {"@architectures": "elmo_hf.DocTensor.v1", "width": width}
    model = {"@architectures": "spacy.Tagger.v2", "tok2vec": layer}
    nlp.add_pipe("tagger", config={"model": model})
    gold = [Example(nlp.make_doc(doc.text), doc) for doc in make_examples(8)]
    nlp.initialize(lambda: gold).learn_rate = 0.01
    return nlp, gold


@pytest.mark.slow
def test_a_tagger_learns_from_the_vectors_and_is_saved(tmp_path):
    folder = str(ROOT / "checkpoints/elmo-mini-en")
    nlp, gold = make_tagger(folder, width=512)
    before = ElmoEmbedder(folder).fingerprint()
    update = {"annotates": ["sentencizer", "elmo"]}
    losses = [nlp.update(gold, **update)["tagger"] for _ in range(20)]
    assert losses[-1] < losses[0] / 10
    assert ElmoEmbedder(folder).fingerprint() == before
    nlp.to_disk(tmp_path)
    doc = spacy.load(tmp_path)("Mary saw Paris .")
    assert [token.tag_ for token in doc] == ["N", "V", "N", "."]


LAYER = {"@architectures": "elmo_hf.DocTensor.v1", "width": 512}
OTHERS = {
    "textcat": {
        "@architectures": "spacy.TextCatReduce.v1",
        "exclusive_classes": True,
        "use_reduce_first": False,
        "use_reduce_last": False,
        "use_reduce_max": False,
        "use_reduce_mean": True,
    },
    "parser": {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "parser",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": True,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_components_learn_as_well(name):
    nlp = make_pipeline(str(ROOT / "checkpoints/elmo-mini-en"))
    config = {"min_action_freq": 1} if name == "parser" else {}
    nlp.add_pipe(name, config={**config, "model": {**OTHERS[name], "tok2vec": LAYER}})
    heads, labels, starts = [1, 1, 1, 1], ["nsubj", "ROOT", "obj", "punct"], [1, 0, 0, 0]
    gold = []
    for words, score in ((["Ada", "loves", "it", "."], 1.0), (["Ada", "hates", "it", "."], 0.0)):
        doc = Doc(nlp.vocab, words=words, heads=heads, deps=labels, sent_starts=starts)
        doc.cats = {"POSITIVE": score, "NEGATIVE": 1 - score}
        gold.append(Example(Doc(nlp.vocab, words=words), doc))
    nlp.initialize(lambda: gold).learn_rate = 0.01
    losses = [nlp.update(gold, annotates=["sentencizer", "elmo"])[name] for _ in range(40)]
    assert losses[-1] < losses[0] / 10


def test_training_without_vectors_is_an_error(folder):
    nlp, gold = make_tagger(folder)
    with pytest.raises(ValueError, match="annotating_components"):
        nlp.update(gold, annotates=["sentencizer"])
    nlp, gold = make_tagger(folder, width=5)
    with pytest.raises(ValueError, match=r"shape \(4, 12\), .* expects \(4, 5\)"):
        nlp.update(gold, annotates=["sentencizer", "elmo"])
    nlp, gold = make_tagger(folder)
    nlp("A text .")
    nlp.disable_pipe("elmo")
    with pytest.raises(ValueError, match="has no ELMo vectors"):
        nlp("A text .")


# --- Installed beside spaCy ---

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = {
    name: PROJECT["entry-points"][name] for name in ("spacy_factories", "spacy_architectures")
}
LATE = """
import spacy, sys
nlp = spacy.blank("en")
nlp.add_pipe("ner")
assert "elmo_hf" not in sys.modules
nlp.add_pipe("elmo", config={"model": sys.argv[1]})
"""


def run_installed(place, *arguments):
    """Run Python where elmo_hf's entry points are found, as after `pip install`."""
    lines = []
    for group, names in GROUPS.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]
    information = place / "packages/elmo_hf-0.1.0.dist-info"
    information.mkdir(parents=True)
    (information / "entry_points.txt").write_text("\n".join(lines))
    (information / "METADATA").write_text("Name: elmo-hf\nVersion: 0.1.0\n")
    paths = os.pathsep.join([str(ROOT), str(place / "packages")])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_entry_points_name_what_spacy_registers():
    for group, names in GROUPS.items():
        for name, value in names.items():
            assert EntryPoint(name, value, group).load() in (make_elmo, make_doc_tensor)
            assert spacy.registry.has(group.removeprefix("spacy_"), name)


@pytest.mark.slow
def test_spacy_imports_elmo_only_for_a_pipeline_that_uses_it(folder, tmp_path):
    run_installed(tmp_path, "-c", LATE, folder)


@pytest.mark.slow
def test_the_configuration_in_the_guide_trains_a_tagger_and_an_entity_recognizer(tmp_path):
    page = (ROOT / "docs/integrations.md").read_text(encoding="utf-8")
    (text,) = (code for language, code in blocks(page) if language == "ini")
    (tmp_path / "base.cfg").write_text(text + "max_steps = 60\neval_frequency = 20\n")
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    for name, count in (("train", 60), ("dev", 20)):
        DocBin(docs=make_examples(count)).to_disk(tmp_path / f"{name}.spacy")
    script = "\n".join(
        f"spacy.cli.app({command.split()[3:]}, standalone_mode=False)"
        for command in re.findall("python -m spacy .*", page)
    )
    run_installed(tmp_path, "-c", f"import spacy.cli\n{script}")
    trained = spacy.load(tmp_path / "pipeline/model-last")
    doc = trained("Mary saw London. Ada left Paris.")
    assert [entity.label_ for entity in doc.ents] == ["PER", "LOC", "PER", "LOC"]
    assert [token.tag_ for token in doc] == ["N", "V", "N", "."] * 2
