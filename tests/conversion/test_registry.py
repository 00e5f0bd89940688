"""Tests of the registry of published checkpoints: required facts, and errors."""

from urllib.parse import urlsplit

import pytest

from elmo_hf.conversion.registry import REGISTRY, card_files, find, read_registry
from elmo_hf.conversion.tables import WeightsError

SAID = 'title = "t"\nformat = "f"\npage = "https://p"\nlicence = "not stated"\n'


@pytest.fixture
def registry(tmp_path):
    def read(text):
        (tmp_path / "some.toml").write_text(text)
        return read_registry(tmp_path / "some.toml", tmp_path)

    return read


def test_every_checkpoint_has_a_file_of_facts_and_no_file_is_without_one():
    facts = {path.name for path in (card_files() / "facts").iterdir()}
    assert facts == {f"{name}.toml" for name in read_registry()}
    assert "training_data" not in REGISTRY.read_text() and "stated = [" not in REGISTRY.read_text()
    assert find("norelmo-wiki").training_data == "Norwegian Wikipedia of September 2020"
    assert find("deeppavlov-news").stated == ("perplexity 49.88",)


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        ('licence = "MIT"', "m.toml has licence; expected only biases"),
        ('stated = ["a"]', "stated is in .*m.toml, too"),
        ("stated", "m.toml cannot be read"),
        ('[[biases]]\ntask = "WEAT"', "checkpoint m: .*missing"),
    ],
)
def test_a_file_of_facts_with_mistakes_is_refused(registry, tmp_path, facts, complaint):
    (tmp_path / "m.toml").write_text(facts)
    with pytest.raises(WeightsError, match=complaint):
        registry(f'[m]\n{SAID}stated = ["b"]')


def test_every_published_checkpoint_has_a_source_a_licence_and_a_citation():
    checkpoints = read_registry()
    assert len(checkpoints) >= 80
    for checkpoint in checkpoints.values():
        assert checkpoint.page.startswith(("http://", "https://"))
        assert checkpoint.licence and checkpoint.title and checkpoint.format
        assert checkpoint.citations and all(c.startswith("@") for c in checkpoint.citations)
        names = [file.name for file in checkpoint.files]
        assert len(set(names)) == len(names), checkpoint.name
        assert "{" not in repr((checkpoint.title, checkpoint.files, checkpoint.training_data))


def test_the_published_sizes_are_those_of_the_papers_models():
    parameters = [find(f"allennlp-{size}").parameters for size in ("small", "medium", "original")]
    assert parameters == [13_593_296, 28_027_728, 93_600_848]
    assert find("allennlp-original").size == "374.4 MB"
    assert find("allennlp-small").size == "about 54 MB"
    assert find("bioelmo").size == "size not known" and not find("bioelmo").files


def test_each_language_of_a_family_is_a_checkpoint_of_its_own():
    family = [name for name in read_registry() if name.startswith("elmoformanylangs-")]
    assert len(family) == 44
    irish = find("elmoformanylangs-ga")
    assert irish.languages == ("ga",)
    assert irish.files[0].address == "https://vectors.nlpl.eu/repository/11/151.zip"


def test_addresses_are_encrypted_except_where_the_host_may_not_offer_it():
    addresses = [file.address for c in read_registry().values() for file in c.files]
    plain = {urlsplit(a).hostname for a in addresses if not a.startswith("https://")}
    assert plain == {"files.deeppavlov.ai"}


def test_only_english_models_of_bilm_split_like_the_billion_words():
    for checkpoint in read_registry().values():
        if checkpoint.format == "ELMoForManyLangs":
            assert checkpoint.word_splitter is None, checkpoint.name
        elif checkpoint.languages == ("en",) and not checkpoint.name.startswith("crosslingual"):
            assert checkpoint.word_splitter == "billion-words", checkpoint.name
        else:
            assert checkpoint.word_splitter in ("treebank", "whitespace"), checkpoint.name


def test_flair_s_names_are_known_too():
    for alias, name in {
        "original": "allennlp-original",
        "small": "allennlp-small",
        "medium": "allennlp-medium",
        "large": "allennlp-5-5b",
        "5.5B": "allennlp-5-5b",
        "pt": "portuguese",
        "pubmed": "allennlp-pubmed",
    }.items():
        assert find(alias).name == name
    names = [name for c in read_registry().values() for name in (c.name, *c.aliases)]
    assert len(set(names)) == len(names)


def test_the_error_for_a_wrong_name_suggests_the_nearest():
    with pytest.raises(WeightsError, match=r"did you mean allennlp-small.*--list"):
        find("allennlp-smal")
    with pytest.raises(WeightsError, match="did you mean elmoformanylangs-"):
        find("manylangs")
    with pytest.raises(WeightsError, match=r"no checkpoint 'zzz'; `elmo-hf fetch --list"):
        find("zzz")


@pytest.mark.parametrize("place", ["registry", "file of facts"])
def test_measured_figures_are_read_with_the_facts(registry, tmp_path, place):
    measured = 'task = "WEAT"\ndataset = "d"\nmetric = "e"\nvalue = 1\ncommand = "c"'
    if place == "registry":
        (checkpoint,) = registry(f"[m]\n{SAID}[[m.biases]]\n{measured}").values()
    else:
        (tmp_path / "m.toml").write_text(f"[[biases]]\n{measured}")
        (checkpoint,) = registry(f"[m]\n{SAID}").values()
    assert checkpoint.biases[0].value == 1 and checkpoint.evaluations == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[m", "cannot be read"),
        ('[m]\ntitle = "t"', "missing"),
        (f'[m]\n{SAID}colour = "red"', "colour"),
        (f'[m]\n{SAID}citations = ["nobody2020"]', "nobody2020"),
        (f'[m]\n{SAID}files = [{{ address = "file:///etc/passwd" }}]', "not the address of a file"),
        (f'[m]\n{SAID}files = [{{ address = "https://host/" }}]', "not the address of a file"),
        (f'[m]\n{SAID}stated = ["{{who}}"]\n[m.variants]\na = {{}}', "who"),
        ("m = 3", "checkpoint m"),
    ],
)
def test_a_registry_with_mistakes_is_refused(registry, text, complaint):
    with pytest.raises(WeightsError, match=complaint):
        registry(text)
