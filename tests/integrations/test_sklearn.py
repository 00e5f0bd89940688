"""scikit-learn uses ElmoVectorizer as it uses its own vectorizers."""

import pickle
import weakref

import joblib
import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer
from elmo_hf.integrations.sklearn import ElmoVectorizer, _last_used

TEXTS = ["The river rose .", "", "I don't know", "It rained for days and days ."]
WORDS = [["The", "river"], [], ["rose"]]
# scikit-learn's other checks fit arrays of numbers, and it skips them for input that is text.
CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_mixin_order",
]


def save(path, seed=0):
    torch.manual_seed(seed)
    sizes = {"filters": [[1, 4], [2, 5]], "projection_dim": 6, "cell_dim": 8}
    ElmoModel(ElmoConfig(**sizes)).save_pretrained(path)
    ElmoTokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize("name", CHECKS)
def test_the_conventions_of_scikit_learn_hold(folder, name):
    getattr(estimator_checks, name)("ElmoVectorizer", ElmoVectorizer(folder))


@pytest.mark.parametrize("layers", ["average", "top", 0, "all", [2, 0]])
@pytest.mark.parametrize("pooling", ["mean", "ends"])
def test_rows_are_the_embedders_sentence_vectors(folder, layers, pooling):
    vectorizer = ElmoVectorizer(folder, layers=layers, pooling=pooling)
    embedder = ElmoEmbedder(folder, layers=layers, pooling=pooling)
    for given in (TEXTS, WORDS):
        expected = embedder.encode(given)
        objects = np.empty(len(given), object)
        objects[:] = given
        for X in (
            given,
            tuple(given),
            objects,
            pandas.Series(given, index=range(5, 5 + len(given))),
        ):
            np.testing.assert_array_equal(vectorizer.transform(X), expected)
        np.testing.assert_array_equal(vectorizer.fit_transform(given), expected)
    assert vectorizer.get_feature_names_out().shape == (expected.shape[1],)
    check_is_fitted(ElmoVectorizer(folder))  # `transform` needs no `fit`


def test_the_constructor_and_clones_load_nothing(folder):
    ElmoVectorizer("no such folder", layers="none")
    vectorizer = ElmoVectorizer(folder, layers="top")
    used = clone(vectorizer)
    used.transform(TEXTS)
    assert vars(vectorizer) == vars(clone(used))
    for setting, message in ({"model": "none"}, "no folder none"), ({"layers": 9}, "layers 0 to 2"):
        with pytest.raises((ValueError, OSError), match=message):
            clone(vectorizer).set_params(**setting).fit(TEXTS)
    changed = used.set_params(layers="all").transform(TEXTS)
    np.testing.assert_array_equal(changed, ElmoEmbedder(folder, layers="all").encode(TEXTS))


def test_pandas_output_keeps_the_index(folder):
    vectorizer = ElmoVectorizer(folder).set_output(transform="pandas")
    frame = vectorizer.fit_transform(pandas.Series(TEXTS, index=list("dcba")))
    assert list(frame.index) == list("dcba")
    assert list(frame.columns[:2]) == ["elmovectorizer0", "elmovectorizer1"]
    table = pandas.DataFrame({"text": TEXTS, "n": range(4)})
    both = ColumnTransformer(
        [("elmo", ElmoVectorizer(folder), "text"), ("n", "passthrough", ["n"])]
    )
    assert both.set_output(transform="pandas").fit_transform(table).shape == (4, 13)
    assert both.get_feature_names_out()[0] == "elmo__elmovectorizer0"


def test_a_pickle_holds_the_name_and_refuses_changed_files(tmp_path):
    folder = save(tmp_path / "model")
    pipeline = make_pipeline(ElmoVectorizer(folder), LogisticRegression())
    pipeline.fit(TEXTS, [0, 1, 0, 1])
    before = joblib.hash(clone(pipeline[0]))
    assert joblib.hash(pipeline[0]) == before
    assert len(pickle.dumps(pipeline[0])) < 2000
    joblib.dump(pipeline, tmp_path / "pipeline")
    again = joblib.load(tmp_path / "pipeline")
    np.testing.assert_array_equal(again.predict_proba(TEXTS), pipeline.predict_proba(TEXTS))
    save(folder, seed=1)
    del pipeline, again
    _last_used.clear()  # as in a new process
    with pytest.raises(RuntimeError, match="have changed"):
        joblib.load(tmp_path / "pipeline").predict(TEXTS)
    assert joblib.hash(ElmoVectorizer(folder)) != before  # what Pipeline(memory=...) looks up


def test_clones_share_the_loaded_model(folder):
    vectorizer = ElmoVectorizer(folder)
    vectorizer.transform(TEXTS)
    model = weakref.ref(vectorizer._embedder.model)
    vectorizer = clone(vectorizer)  # the old one is gone, as in a grid search
    vectorizer.transform(TEXTS)
    assert vectorizer._embedder.model is model()


def test_a_pipeline_with_memory_computes_the_same_vectors_once(folder, tmp_path, monkeypatch):
    pipeline = make_pipeline(ElmoVectorizer(folder), LogisticRegression(), memory=str(tmp_path))
    first = pipeline.fit(TEXTS, [0, 1, 0, 1]).predict_proba(TEXTS)
    second = clone(pipeline)
    with monkeypatch.context() as patch:
        patch.setattr(ElmoVectorizer, "transform", None)
        second.fit(TEXTS, [0, 1, 0, 1])
        with pytest.raises(TypeError):
            second.set_params(elmovectorizer__layers="top").fit(TEXTS, [0, 1, 0, 1])
    again = clone(pipeline).fit(TEXTS, [0, 1, 0, 1]).predict_proba(TEXTS)
    np.testing.assert_array_equal(again, first)


@pytest.mark.slow
def test_a_grid_search_in_two_processes_finds_what_one_finds(folder):
    texts = [f"{word} {i}" for i in range(8) for word in ("river", "Ada")]
    labels = ["thing", "person"] * 8
    pipeline = make_pipeline(ElmoVectorizer(folder), LogisticRegression(C=100))
    grid = {"elmovectorizer__layers": ["average", 0], "elmovectorizer__pooling": ["mean", "max"]}
    alone, both = (
        GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs, error_score="raise").fit(texts, labels)
        for jobs in (None, 2)
    )
    assert alone.best_params_ == both.best_params_
    np.testing.assert_allclose(
        alone.cv_results_["mean_test_score"], both.cv_results_["mean_test_score"]
    )
    texts = ["river 9", "Ada 9"]
    np.testing.assert_allclose(both.predict_proba(texts), alone.predict_proba(texts), atol=1e-6)


@pytest.mark.parametrize(
    "X, message",
    [
        ("a text", "one string"),
        ([["a"], "b"], "sentence 1 is a str"),
        (["a", None], "sentence 1 is None"),
        (np.array([["a"]]), r"shape \(1, 1\)"),
        (pandas.DataFrame({"text": ["a"]}), 'the name "text"'),
        (pandas.Series(["a", None]), "sentence 1 is"),
    ],
)
def test_other_input_is_refused(folder, X, message):
    with pytest.raises(ValueError, match=message):
        ElmoVectorizer(folder).transform(X)


@pytest.mark.parametrize("X", [{"text": ["a"]}, {"a b", "c"}, None, 5])
def test_what_is_no_list_of_texts_is_refused(folder, X):
    with pytest.raises(ValueError, match=f"is a {type(X).__name__}, "):
        ElmoVectorizer(folder).transform(X)


def test_an_assigned_setting_holds_from_the_next_call_on(folder):
    vectorizer = ElmoVectorizer(folder).fit(TEXTS)
    vectorizer.layers = "all"
    np.testing.assert_array_equal(
        vectorizer.transform(TEXTS), ElmoEmbedder(folder, layers="all").encode(TEXTS)
    )
    assert len(vectorizer.get_feature_names_out()) == vectorizer.transform(TEXTS).shape[1]


def test_a_vectorizer_of_a_missing_folder_can_be_shown_and_pickled():
    vectorizer = ElmoVectorizer("no/such")
    assert "ElmoVectorizer" in vectorizer._repr_html_()
    assert pickle.loads(pickle.dumps(vectorizer)).model == "no/such"
