"""The benchmark of code-mixed and biomedical text: its data, scores and pages."""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
UD = """# sent_id = {0}.1
# text = x
1-2	vardı	_	_	_	_	_	_	_	CSID=TR|Lang=tr
1	var	var	ADJ	_	_	0	root	_	CSID=TR|Lang=tr
2	dı	i	AUX	_	_	1	cop	_	CSID=TR|Lang=tr

# sent_id = {0}.2
1	#	#	SYM	_	_	0	root	_	CSID=OTHER

# sent_id = new
1	salam	x	INTJ	_	_	0	root	_	CSID=OTHER
"""
TWEETS = "meta\t1\tpositive\nSo\tlang1\ncruda\tlang2\n\nmeta\t2\tneutral\nlol\tlang1\n"
FILES = {
    "ud_qtd_sagt/qtd_sagt-ud-{}.conllu.xz": UD,
    "ud_qaf_arabizi/qaf_arabizi-ud-{}.conllu": UD,
    "narabizi_labels/{}_Narabizi_topic.txt": "ID\tTopic\n# sent_id = {0}\tSPORT\n"
    "# sent_id = old\tNONE\n# sent_id = gone\tNONE\n",
    "narabizi_labels/id_map.tsv": "split\tlayer_id\tud_ids\n"
    + "".join(
        f"{part}\t{part}\t{part}.1 {part}.2\n{part}\told\tnew\n{part}\tgone\t-\n"
        for part in ("train", "dev", "test")
    ),
    "hinglish_ner/annotatedData.csv.xz": "Sent,Word,Tag\n"
    + "".join(f'sent: {i},w{i},B-Per\nsent: {i},"a, b",Other\n""\n' for i in range(20))
    + 'sent: 20,w1,B-Per\nsent: 20,"a, b",Other\n""\nsent: 21,\xa0,Other\n',
    "sentimix/spanglish_trial.txt.xz": TWEETS,
    "sentimix/train_conll_spanglish.txt.xz": TWEETS
    + "".join(f"\nmeta\t{i}\tnegative\nw{i}\tlang2\n" for i in (*range(3, 23), 22)),
    "ncbi_disease/{}.tsv": "APC2\tO\ncolon\tB-Disease\ncancer\tI-Disease\n\n#\tO\n",
}


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def data(tmp_path):
    for name, content in FILES.items():
        for part in ("train", "dev", "test") if "{}" in name else ("",):
            file = tmp_path / name.format(part)
            file.parent.mkdir(parents=True, exist_ok=True)
            text = content.replace("{0}", part).encode()
            file.write_bytes(lzma.compress(text) if file.suffix == ".xz" else text)
    return tmp_path


def test_treebanks_are_read_without_ranges_and_with_each_words_language(data):
    from mixed_texts import TASKS

    train, _, _ = TASKS["sagt"].read(data)
    assert train[:2] == [(["var", "dı"], ["ADJ", "AUX"]), (["#"], ["SYM"])]
    assert TASKS["sagt_language"].read(data).test[0].labels == ["TR", "TR"]
    assert TASKS["ncbi_disease"].read(data).dev == [
        (["APC2", "colon", "cancer"], ["O", "B-Disease", "I-Disease"]),
        (["#"], ["O"]),
    ]


def test_halves_of_a_sentence_are_joined_for_its_label(data):
    from mixed_texts import TASKS, DataError

    expected = [(["var", "dı", "#"], ["SPORT"]), (["salam"], ["NONE"])]
    assert TASKS["arabizi_topic"].read(data).dev == expected
    (data / "narabizi_labels/id_map.tsv").write_text("split\tlayer_id\tud_ids\n")
    with pytest.raises(DataError, match=r"sentence train \(train\) has no sentence"):
        TASKS["arabizi_topic"].read(data)


def test_no_tweet_is_in_two_parts(data):
    from mixed_texts import TASKS

    for name, sizes in (("hinglish_ner", (16, 2, 2)), ("sentimix_es", (18, 2, 2))):
        parts = TASKS[name].read(data)
        assert tuple(map(len, parts)) == sizes
        assert len({tuple(item.words) for part in parts for item in part}) == sum(sizes)
        assert parts == TASKS[name].read(data)
    assert parts.test[0] == (["So", "cruda"], ["positive"])
    assert TASKS["hinglish_ner"].read(data).train[0].labels == ["B-Per", "O"]


def test_scores_are_those_of_scikit_learn_and_seqeval():
    import mixed_heads
    from mixed_texts import TASKS
    from seqeval.metrics import f1_score as span_f1
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(0)
    gold, predicted = rng.choice(["a", "b", "c"], (2, 200))
    one_each = [[label] for label in gold], [[label] for label in predicted]
    for name, expected in (
        ("sentimix_es", f1_score(gold, predicted, average="macro")),
        ("arabizi_topic", accuracy_score(gold, predicted)),
    ):
        found = mixed_heads.estimate(TASKS[name], count(name, *one_each))
        assert found.value == pytest.approx(expected)
        assert found.low < expected < found.high and found.n == 200
    tags = rng.choice(["O", "B-X", "I-X", "B-Y"], (2, 50, 8)).tolist()
    found = mixed_heads.estimate(TASKS["bc5cdr"], count("bc5cdr", *tags))
    assert found.value == pytest.approx(span_f1(*tags))
    same = mixed_heads.difference(TASKS["bc5cdr"], *[count("bc5cdr", *tags)] * 2)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def count(task, gold, predicted):
    import mixed_heads
    from mixed_texts import TASKS

    return mixed_heads.METRICS[TASKS[task].metric][0](gold, predicted)


def test_a_head_learns_what_the_vectors_show_and_the_lexicon_what_words_show():
    import mixed_heads
    from mixed_texts import TASKS, Item, Parts

    class Last:
        def __call__(self, sentences):
            for words in sentences:
                yield np.array([[[float(word[-1])] for word in words]], np.float32)

    def part(start):
        words = [[f"{i}-{j % 2}" for j in range(1, 4)] for i in range(start, start + 30)]
        return [Item(one, ["odd", "even", "odd"]) for one in words]

    parts = Parts(part(0), part(30), part(60))
    task = TASKS["sagt"]
    right = mixed_heads.measure(Last(), task, parts).test.sum(0)
    assert right.tolist() == [90, 90]
    # No test word occurs in training: the most frequent label is left.
    assert mixed_heads.measure_lexicon(task, parts).test.sum(0).tolist() == [60, 90]
    assert mixed_heads.measure_majority(task, parts).dev.sum(0).tolist() == [60, 90]


def test_the_training_command_starts_from_the_base_and_health_documents_are_found(tmp_path):
    import mixed_training

    line = mixed_training.command("sagt", mixed_training.RUNS["sagt"], Path("work"))
    assert line[:4] == ["python", "examples/pretrain.py", "--init_from", "work/bases/elmo-mini-en"]
    index = "split\tshard\tdoc_id\ttitle\turl\tsentences\twords\n" + "".join(
        f"{split}\tx\t{name}\tt\tu\t{count}\t9\n"
        for split, name, count in (
            ("train", "18f/a", 1),
            ("test", "medquad/b", 1),
            ("train", "medquad/c", 2),
        )
    )
    (tmp_path / "index.tsv").write_text(index)
    text = "No.\n\nIt's a flu.\nRest!\n"
    (tmp_path / "train-00.txt.xz").write_bytes(lzma.compress(text.encode()))
    assert [*mixed_training.medical_text(tmp_path)] == ["It 's a flu .", "Rest !"]
    (tmp_path / "train-00.txt.xz").write_bytes(lzma.compress(b"No.\nNo.\n\nRest!\n"))
    with pytest.raises(ValueError, match="18f/a has 2 sentences; the index has 1"):
        [*mixed_training.medical_text(tmp_path)]


def test_the_committed_page_shows_the_committed_figures():
    import mixed_report

    results = json.loads((ROOT / "benchmarks/mixed_text.json").read_text())
    page = (ROOT / "benchmarks/mixed_text.md").read_text(encoding="utf-8")
    assert mixed_report.markdown(results) == page
