"""mteb evaluates an ELMo folder through sentence-transformers."""

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer

TINY = {"cell_dim": 12, "projection_dim": 6, "filters": [[1, 4], [2, 5]], "char_embedding_dim": 3}
ROWS = {
    "sentence1": ["rain fell", "the river rose", "Ada slept", "no"],
    "sentence2": ["rain fell", "a river rose", "the bank lent money", "never again"],
    "score": [5.0, 4.0, 1.0, 0.0],
}


@pytest.mark.slow
def test_a_task_in_memory_scores_the_vectors_of_sentence_transformers(tmp_path):
    mteb = pytest.importorskip("mteb")
    library = pytest.importorskip("sentence_transformers")
    datasets = pytest.importorskip("datasets")
    from scipy.stats import spearmanr

    class Pairs(mteb.abstasks.AbsTaskSTS):
        metadata = mteb.TaskMetadata(
            name="Pairs",
            description="Four pairs of sentences.",
            dataset={"path": "in-memory/pairs", "revision": "1"},
            type="STS",
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
        )

        def load_data(self, *_, **__):
            self.dataset = datasets.DatasetDict(test=datasets.Dataset.from_dict(ROWS))
            self.data_loaded = True

    torch.manual_seed(0)
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(tmp_path / "elmo")
    ElmoTokenizer().save_pretrained(tmp_path / "elmo")
    model = library.SentenceTransformer(str(tmp_path / "elmo"), device="cpu")
    results = mteb.evaluate(model, [Pairs()], cache=None)
    one, other = (model.encode(ROWS[f"sentence{k}"], convert_to_tensor=True) for k in (1, 2))
    cosines = torch.cosine_similarity(one, other).numpy()
    expected = spearmanr(cosines, ROWS["score"]).statistic
    assert results.task_results[0].get_score() == pytest.approx(expected, abs=1e-4)
