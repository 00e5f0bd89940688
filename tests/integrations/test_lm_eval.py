"""ElmoLM: the harness reads our scores, and its BLiMP is ours."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from elmo_hf import (
    ElmoConfig,
    ElmoForPreTraining,
    ElmoForSequenceClassification,
    ElmoTokenizer,
    score_sentences,
    score_text,
)

pytest.importorskip("lm_eval")
from elmo_hf.integrations.lm_eval import ElmoLM

ROOT = Path(__file__).parents[2]
BLIMP = ROOT.parent / "shared/data/blimp/blimp_data.zip"
WORDS = ["<S>", "</S>", "<UNK>", "the", "river", "rivers", "rises", "rise", "."]
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {file}}}}}
output_type: multiple_choice
validation_split: train
doc_to_text: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    sizes = {"filters": [[1, 4], [2, 5]], "projection_dim": 6, "cell_dim": 8}
    ElmoForPreTraining(ElmoConfig(**sizes, lm_vocab_size=len(WORDS))).save_pretrained(path)
    ElmoTokenizer(lm_vocab=WORDS).save_pretrained(path)
    return path


def requests(*arguments):
    return [SimpleNamespace(args=given) for given in arguments]


def scores(folder, sentences, function=score_sentences):
    model = ElmoForPreTraining.from_pretrained(folder).eval()
    return list(function(model, ElmoTokenizer.from_pretrained(folder), sentences))


def total(score, direction):
    parts = {"forward": score.forward, "backward": score.backward}
    return sum(part.sum() for name, part in parts.items() if direction in (name, "both"))


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_continuation_without_context_is_a_sentence(folder, direction):
    sentences = ["The river rises.", "rise"]
    found = ElmoLM(folder, direction).loglikelihood(
        requests(("", " The river rises."), ("", "rise"))
    )
    expected = [total(score, direction) for score in scores(folder, sentences)]
    np.testing.assert_allclose([score for score, _ in found], expected, rtol=1e-6)
    assert [greedy for _, greedy in found] == [False, False]


def test_forward_a_context_is_read_but_not_scored(folder):
    (whole,) = scores(folder, ["The rivers don't rise."])  # six words
    texts = (
        ("The rivers", " don't rise."),
        (" The rivers ", "don't rise."),
        ("The rivers do", "n't rise."),
    )
    found = ElmoLM(folder).loglikelihood(requests(*texts))
    expected = [whole.forward[2:].sum(), whole.forward[2:].sum(), whole.forward[3:].sum()]
    np.testing.assert_allclose([score for score, _ in found], expected, rtol=1e-6)


def test_both_with_a_context_is_the_difference_of_the_whole_and_backward_is_refused(folder):
    given = requests(("The rivers", " rise."), ("", "The rivers"))
    whole, context = (total(s, "both") for s in scores(folder, ["The rivers rise.", "The rivers"]))
    found = ElmoLM(folder, "both").loglikelihood(given)
    np.testing.assert_allclose([score for score, _ in found], [whole - context, context], rtol=1e-6)
    with pytest.raises(ValueError, match="'forward' or 'both'"):
        ElmoLM(folder, "backward").loglikelihood(given)


def test_a_rolling_text_is_read_line_by_line_with_carried_states(folder):
    lines = ["The river rises.", "The rivers rise."]
    found = ElmoLM(folder).loglikelihood_rolling(requests(("\n".join([*lines, ""]),), (" ",)))
    expected = sum(total(score, "forward") for score in scores(folder, lines, score_text))
    np.testing.assert_allclose(found, [expected, 0], rtol=1e-6)
    apart = sum(total(score, "forward") for score in scores(folder, lines))
    assert abs(found[0] - apart) > 1e-4


def test_what_elmo_cannot_do_is_said(folder, tmp_path):
    with pytest.raises(NotImplementedError, match="does not write any"):
        ElmoLM(folder).generate_until([])
    with pytest.raises(ValueError, match="expected one of forward, backward, both"):
        ElmoLM(folder, "left")
    config = ElmoConfig.from_pretrained(folder, bidirectional=False)
    ElmoForPreTraining(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no backward LSTMs"):
        ElmoLM(tmp_path, "both")


def test_a_model_without_its_softmax_is_refused(folder, tmp_path):
    ElmoForSequenceClassification.from_pretrained(folder).save_pretrained(tmp_path)
    ElmoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no complete language model; it lacks lm_head\.bias"):
        ElmoLM(tmp_path)


def check_blimp(folder, pairs, direction, tmp_path, monkeypatch):
    """The harness's accuracy is ours plus the ties, which it counts as correct."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    lines = [{"sentence_good": good, "sentence_bad": bad} for good, bad in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "pairs.yaml").write_text(
        TASK.format(name="elmo_pairs", file=tmp_path / "pairs.jsonl")
    )
    results = simple_evaluate(
        model=ElmoLM(folder, direction),
        tasks=["elmo_pairs"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    accuracy = results["results"]["elmo_pairs"]["acc,none"]

    found = [total(s, direction) for s in scores(folder, [text for pair in pairs for text in pair])]
    margins = np.subtract(found[::2], found[1::2])
    ties = np.abs(margins) < 1e-4  # rounding may break a tie either way
    wins = (margins > 0) & ~ties
    assert wins.mean() <= accuracy <= (wins | ties).mean()
    return accuracy, wins.mean(), ties.mean()


@pytest.mark.slow
def test_a_task_of_files_equals_ours_and_ties_are_correct_there(folder, tmp_path, monkeypatch):
    pairs = [("The river rises.", "The river rise."), ("The rivers rise.", "The rivers rises.")]
    pairs += [("rivers rise .", "rivers rise ."), ("river the .", "the river .")]
    accuracy, wins, ties = check_blimp(folder, pairs, "forward", tmp_path, monkeypatch)
    assert ties == 0.25 and accuracy == wins + ties


@pytest.mark.slow
@pytest.mark.skipif(not BLIMP.is_file(), reason="BLiMP is not here")
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_blimp_through_the_harness_equals_ours(direction, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from language_model_texts import read_blimp

    checkpoint = ROOT / "checkpoints/elmo-mini-en"
    pairs = [(pair.good, pair.bad) for pair in read_blimp(BLIMP)[::300]]
    accuracy, _, ties = check_blimp(checkpoint, pairs, direction, tmp_path, monkeypatch)
    assert accuracy > 0.6 and ties < 0.05
