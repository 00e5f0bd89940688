"""Functions of datasets.map that hold a model and a tokenizer, in forked processes."""

import datasets
import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer, embed_corpus

TEXTS = [f"The river number {i} does n't stop ." for i in range(24)]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_dataset_is_embedded_by_two_processes_after_the_parent_has_computed(threads):
    torch.manual_seed(0)
    tokenizer = ElmoTokenizer()
    model = ElmoModel(ElmoConfig(filters=[[1, 8]], projection_dim=8, cell_dim=16)).eval()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = list(embed_corpus(model, tokenizer, TEXTS, layers=-1))
        list(call(model, tokenizer, TEXTS[:1]))

        def by_calls(rows):
            return {"vectors": list(call(model, tokenizer, rows["text"]))}

        def by_corpus(rows):
            return {"vectors": list(embed_corpus(model, tokenizer, rows["text"], layers=-1))}

        data = datasets.Dataset.from_dict({"text": TEXTS})
        for function in (by_calls, by_corpus):
            mapped = data.map(function, batched=True, batch_size=4, num_proc=2)
            for vectors, one in zip(mapped["vectors"], expected, strict=True):
                np.testing.assert_allclose(vectors, one, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def call(model, tokenizer, texts):
    with torch.no_grad():
        for text in texts:
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
            yield hidden[0, 1:-1].numpy()
