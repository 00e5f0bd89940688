"""The speed benchmark's arithmetic, checks, tables and plot; nothing is timed or loaded."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import speed
import speed_allennlp
import speed_machine
import speed_models
import speed_plot
import speed_report
import speed_text
import speed_worker
from speed_peers import BenchmarkError, Process
from speed_variants import VARIANTS, Variant

FAST, SLOW, BERT = "elmo_hf", "AllenNLP", "BERT-base"
LIMITS = {"float32": 4e11, "bfloat16": 8e11, "int8": None, "bytes": 4e10}


@pytest.fixture
def results() -> dict:
    size = {
        "name": "original",
        "variants": [SLOW, FAST, "elmo_hf int8", BERT],
        "errors": {SLOW: [1e-7, 2e-7, 3e-7], FAST: [1e-7, 2e-7, 4e-7]},
        "gradient_errors": {SLOW: 1e-6, FAST: 2e-6},
        "inference": {
            # The machine halves its pace in the second round: the ratio stays.
            mode: {
                SLOW: [[1.0, 200], [2.0, 200], [1.0, 200]],
                FAST: [[1.0, 2000], [2.0, 2000], [1.0, 2000]],
                BERT: [[1.0, 400]] * 3,
            }
            for mode in speed_report.MODES
        },
        "flops": 2e8,
        "bert_flops": 2.5e8,
        "steps_per_word": 1.1,
        "training": {
            kind: {SLOW: [[5.0, 600]], FAST: [[1.0, 600]]} for kind in speed_report.TRAINING
        },
        "memory": {kind: {SLOW: 1e9, FAST: 5e8} for kind in speed_report.TRAINING},
        "sweeps": {
            "words in a sentence": {
                "100": {FAST: [[1.0, 100]], SLOW: [[10.0, 100]]},
                "3000": {FAST: [[33.0, 3000]]},
            }
        },
        "skipped": {"elmo_hf bf16": "no such product"},
    }
    return {
        "machine": {"processor": "A Processor", "cores": 4, "flags": ["avx2"]},
        "limits": LIMITS,
        "versions": {"torch": "1", "AllenNLP": "2.10.1"},
        "settings": {
            "command": "python benchmarks/speed.py",
            "cores": 4,
            "sweep_rounds": 1,
            "date": "2026-01-01",
            "pieces": 1.3,
            "rounds": 3,
            "sentences": "2,048",
            "text": "valid.txt.xz",
        },
        "sizes": {"original": size},
    }


def test_every_variant_has_a_name_of_its_own_and_a_limit_of_its_error():
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)
    assert {v.precision for v in VARIANTS if v.is_elmo} <= speed.LAYER_LIMITS.keys()
    assert {v.precision for v in VARIANTS if v.trains} <= speed.GRADIENT_LIMITS.keys()
    assert Variant("elmo_hf", "ours").name == "elmo_hf"
    assert Variant("elmo_hf", "ours", "bfloat16").name == "elmo_hf bf16"


def test_programs_that_agree_pass():
    speed.check({FAST: [1e-7, 1.9e-6], "elmo_hf bf16": [1e-2], SLOW: [9e-6]}, {FAST: [9e-6]})


def test_a_program_that_differs_stops_the_benchmark_and_is_named():
    with pytest.raises(BenchmarkError, match=r"elmo_hf, layer 1: off by 3\.0e-06 .* 2\.0e-06"):
        speed.check({SLOW: [0.0, 0.0], FAST: [1e-7, 3e-6]}, {})
    with pytest.raises(BenchmarkError, match="AllenNLP, gradient 0"):
        speed.check({}, {SLOW: [1e-4]})
    with pytest.raises(BenchmarkError, match="nothing to measure"):
        speed.check({FAST: [float("nan")]}, {})


def test_an_error_is_relative_to_the_norm_and_large_where_there_is_no_comparing():
    expected = [np.array([[3.0, 4.0]])]
    assert speed.errors([np.array([[3.0, 4.5]])], expected) == [pytest.approx(0.1)]
    largest = sys.float_info.max
    assert speed.errors([np.array([[3.0]])], expected) == [largest]
    assert speed.errors([np.array([[np.nan, 4.0]])], expected) == [largest]


def test_the_arithmetic_of_a_word_is_that_of_its_maps():
    original = speed_models.SIZES["original"]
    maps = [torch.empty(4 * 4096, 512)] * 2 + [torch.empty(512, 4096)]
    assert speed_models.lstm_flops(original) == 4 * 2 * sum(map(torch.numel, maps))
    assert speed_models.lstm_flops(original) == pytest.approx(151e6, rel=1e-3)
    assert speed_models.character_flops(original, 50) == pytest.approx(55e6, rel=0.03)
    assert speed_models.recurrent_bytes(original, "float32") == pytest.approx(168e6, rel=2e-3)
    assert speed_models.recurrent_bytes(original, "int8") * 4 == speed_models.recurrent_bytes(
        original, "float32"
    )
    # 85 million weights of BERT-base without its tables
    assert speed_models.bert_flops(1) == pytest.approx(2 * 85e6, rel=2e-3)


def test_a_word_that_comes_again_costs_its_characters_once():
    tiny = speed_models.SIZES["tiny"]
    once = speed_models.corpus_flops(tiny, [["word"]])
    twice = speed_models.corpus_flops(tiny, [["word", "word"]])
    other = speed_models.corpus_flops(tiny, [["word", "lord"]])
    assert twice - once == speed_models.lstm_flops(tiny)
    assert other - twice == speed_models.character_flops(tiny, 6)


def test_random_arrays_have_the_shapes_that_the_options_say():
    tiny = speed_models.SIZES["tiny"]
    made = dict(speed_models.arrays(tiny, seed=0))
    again = dict(speed_models.arrays(tiny, seed=0))
    cell = "RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell"
    assert made[f"{cell}/W_0"].shape == (2 * 16, 4 * 48)
    assert made[f"{cell}/W_P_0"].shape == (48, 16)
    assert {array.dtype for array in made.values()} == {np.dtype("float32")}
    assert all(np.array_equal(made[name], again[name]) for name in made)


def test_multiples_are_those_of_the_numbers_that_are_shown():
    measured = {FAST: [[1.0, 200], [1.0, 100], [1.0, 300]], SLOW: [[1.0, 10], [1.0, 40], [2.0, 40]]}
    assert speed_report.rate(measured[FAST]) == 200
    assert speed_report.speed(measured, FAST) == "200 (10.00×)"  # 200 / 20, whatever the rounds
    assert speed_report.step_time(measured, SLOW) == "1.00 (1.00×)"
    assert speed_report.speed({FAST: measured[FAST]}, FAST) == "200"


def test_the_table_shows_words_ratios_errors_and_shares(results):
    table = speed_report.inference_table(results["sizes"]["original"], LIMITS)
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert rows[FAST].startswith("| elmo_hf | 2,000 (10.00×) | 2,000 (10.00×) |")
    assert "1.0e-07, 2.0e-07, 4.0e-07 | 100% |" in rows[FAST]
    assert rows[BERT].endswith("| – | 25% | – |")
    assert rows["elmo_hf int8"] == "| elmo_hf int8 | – | – | – | – | – | – |"


def test_the_page_holds_all_tables_and_what_was_not_measured(results):
    page = speed_report.page(results)
    assert "| elmo_hf | 1.00 (5.00×) | 500 (50%) | 1.00 (5.00×) | 500 (50%) | 2.0e-06 |" in page
    assert "| 3000 | – | 91 |" in page
    assert "each word of a sentence of 3000 words takes 10% more time" in page
    assert "Not measured: ELMo original, elmo_hf bf16: no such product" in page
    assert "products float32 400, bfloat16 800 GFLOP/s, memory 40 GB/s" in page
    assert "{" not in page


def test_what_was_left_out_leaves_no_empty_table(results):
    size = results["sizes"]["original"]
    size["training"] = {kind: {} for kind in speed_report.TRAINING}
    size["inference"] = {mode: {} for mode in speed_report.MODES}
    size["sweeps"] = {}
    page = speed_report.page(results)
    assert "training step\n" not in page
    assert speed.plotted(results) == {}


def test_the_readme_changes_between_its_marks_only(tmp_path):
    readme = tmp_path / "README.md"
    assert not speed_report.put_between_marks(readme, "new")
    readme.write_text("before, no marks")
    assert not speed_report.put_between_marks(readme, "new")
    assert readme.read_text() == "before, no marks"
    readme.write_text(f"before\n{speed_report.BEGIN}\nold\n{speed_report.END}\nafter\n")
    assert speed_report.put_between_marks(readme, r"new \1")
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text and r"new \1" in text
    assert speed_report.put_between_marks(readme, r"new \1") and readme.read_text() == text


def test_nothing_of_the_plot_is_cut_off(results):
    agg = pytest.importorskip("matplotlib.backends.backend_agg")
    long = ("a program with a long name, sorted", 7.0, "38,364 (32.13×)")
    figure = speed_plot.make_figure(speed.plotted(results) | {"ELMo small: words/s": [long]})
    renderer = agg.FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    for panel in figure.axes:
        assert len(panel.patches) == len(panel.texts) == len(panel.get_yticklabels())
        box = panel.get_tightbbox(renderer)  # of all names, bars, labels and the title
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths[0] == 5 * widths[1] == 10 * widths[2]


def test_written_results_can_be_read_again(results, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    speed.write(results, tmp_path / "new")
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        "speed.md",
        "speed.json",
        "speed.svg",
    }
    assert "# Speed" in capsys.readouterr().out


def test_a_text_is_split_into_words_and_given_out_once(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("She doesn't know.\n\nGood morning.\n" + "word " * 391 + "\n")
    pool = speed_text.Pool(speed_text.read(file))
    assert pool.take(1) == [["She", "does", "n't", "know", "."]]
    assert pool.take_words(2) == ["Good", "morning"]
    with pytest.raises(BenchmarkError, match="--quick"):
        pool.take(1)


def test_variety_is_the_number_of_different_words():
    pool = speed_text.Pool([[f"w{i}", "the"] for i in range(100)])
    sentences = pool.take_variety(distinct=5, count=4, length=10)
    assert [len(sentence) for sentence in sentences] == [10] * 4
    assert len({word for sentence in sentences for word in sentence}) == 5


def test_a_missing_text_is_told(tmp_path):
    with pytest.raises(BenchmarkError, match="--text"):
        speed_text.read(tmp_path / "none.txt")


def test_the_command_ends_with_one_line_where_it_cannot_go_on(tmp_path, capsys):
    arguments = ["--text", str(tmp_path / "none.txt"), "--work", str(tmp_path)]
    assert speed.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "none.txt does not exist; name a text" in error


def test_the_processor_is_read_from_what_the_system_says():
    text = "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx2 avx512_bf16\n"
    found = speed_machine.describe(text + text)
    assert found["processor"] == "A Processor"
    assert found["flags"] == ["avx2", "avx512_bf16"]
    assert speed_machine.higher({"a": 1, "b": None}, {"a": 2, "b": None}) == {"a": 2, "b": None}


def test_the_head_is_the_same_in_every_program():
    layers = [torch.ones(2, 3, 4) for _ in range(3)]
    mask = torch.tensor([[True, True, False], [True, True, True]])
    losses = {speed_worker.Head(3, 4)(layers, mask).item() for _ in range(2)}
    assert len(losses) == 1


def test_the_shares_of_the_corpus_that_a_slow_program_is_timed_on_are_even(monkeypatch):
    worker = speed_worker.Worker.__new__(speed_worker.Worker)
    seen = []
    worker.forward = seen.append
    sentences = [["w"] * n for n in range(1, 8 * speed_worker.BATCH + 1)]
    answer = worker.corpus(sentences, every=4)
    assert [len(batch[0]) for batch in seen] == [65, 193]
    assert answer["words"] == sum(len(sentence) for batch in seen for sentence in batch)


@pytest.mark.slow
def test_a_worker_that_cannot_start_tells_why(tmp_path):
    with pytest.raises(BenchmarkError, match="nothing: KeyError"):
        Process(Variant("nothing", "none"), tmp_path, sys.executable, threads=1)


def test_packages_of_allennlp_find_names_where_they_are_defined(monkeypatch):
    monkeypatch.setitem(sys.modules, "made_up", None)
    module = speed_allennlp.add_module("made_up")
    module.__getattr__ = speed_allennlp.finder("json", {"JSONDecoder": "decoder"})
    assert module.JSONDecoder.__module__ == "json.decoder"
    with pytest.raises(AttributeError, match="has no attribute other"):
        _ = module.other
