"""A tiny embedder, and sentences of many lengths."""

import pytest
import torch

SENTENCES = [f"The river number {i} does n't stop" + " , no" * (i * 7 % 13) for i in range(50)]
SENTENCES[3] = ""


@pytest.fixture(scope="session")
def embedder_of():
    from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer

    torch.manual_seed(0)
    config = ElmoConfig(filters=[[1, 8], [3, 8]], projection_dim=8, cell_dim=16)
    model, tokenizer = ElmoModel(config).eval(), ElmoTokenizer()

    def make(**settings):
        return ElmoEmbedder(model, tokenizer, **settings)

    return make


@pytest.fixture
def sentences():
    return list(SENTENCES)
