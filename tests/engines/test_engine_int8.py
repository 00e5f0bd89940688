"""torchao's 8-bit maps on the fast engine."""

import pytest
import torch
from transformers import AutoModel

from elmo_hf import ElmoConfig, ElmoModel, use_engine
from elmo_hf.model.engine_choice import choose_engine

torchao = pytest.importorskip("torchao.quantization")

CONFIG = {
    "cell_dim": 64,
    "projection_dim": 32,
    "filters": [[1, 16], [3, 32]],
    "num_highway_layers": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("quantization")
    ElmoModel(ElmoConfig(**CONFIG)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inputs():
    draw = torch.Generator().manual_seed(1)
    input_ids = torch.randint(1, 262, (3, 9, 50), generator=draw)
    input_ids[1, 5:] = 0
    return input_ids


def load(folder, scheme):
    from transformers import TorchAoConfig

    return AutoModel.from_pretrained(folder, quantization_config=TorchAoConfig(scheme)).eval()


@pytest.fixture(scope="module")
def quantized(folder):
    return load(folder, torchao.Int8DynamicActivationInt8WeightConfig())


@torch.no_grad()
def run(model, input_ids):
    return model(input_ids, output_hidden_states=True).hidden_states


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_eight_bit_maps_run_on_the_prepared_engine(quantized):
    assert quantized.engine_info()["inference"].startswith("cpu")
    assert quantized.engine_info()["training"].startswith("reference")


def test_layers_stay_near_those_of_the_float_model(folder, quantized, inputs):
    expected = run(ElmoModel.from_pretrained(folder), inputs)
    for found, layer in zip(run(quantized, inputs), expected, strict=True):
        assert 1e-5 < error(found, layer) < 5e-2


def test_layers_stay_near_those_of_torchaos_own_products(quantized, inputs):
    with use_engine("reference"):
        expected = run(quantized, inputs)
    for found, layer in zip(run(quantized, inputs), expected, strict=True):
        assert error(found, layer) < 3e-2


def test_a_sentence_has_the_same_bits_alone_and_in_a_batch(quantized):
    draw = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, 20, (24,), generator=draw).tolist()
    input_ids = torch.randint(1, 262, (24, 20, 50), generator=draw)
    for sentence, length in zip(input_ids, lengths, strict=True):
        sentence[length:] = 0
    together = run(quantized, input_ids)
    for i, length in enumerate(lengths):
        for layer, expected in zip(
            together, run(quantized, input_ids[i : i + 1, :length]), strict=True
        ):
            assert torch.equal(layer[i, :length], expected[0])


def test_weight_only_maps_are_called_as_modules(folder, inputs):
    model = load(folder, torchao.Int8WeightOnlyConfig())
    assert model.engine_info()["inference"].startswith("reference")
    expected = run(ElmoModel.from_pretrained(folder), inputs)
    assert error(run(model, inputs)[-1], expected[-1]) < 3e-2


def test_all_lstms_run_on_it_although_transformers_skips_the_last_map(quantized):
    last = quantized.layers[-1].backward_lstm
    assert type(last.output_map.weight) is torch.nn.Parameter
    with torch.no_grad():
        words = torch.zeros(1, 1, 32)
        assert choose_engine(last, words, (words[0], torch.zeros(1, 64)))[0] == "cpu"


def test_gates_with_one_eight_bit_map_run_on_the_reference(folder):
    model = ElmoModel.from_pretrained(folder).eval()
    recurrent_map = model.layers[0].forward_lstm.recurrent_map
    torchao.quantize_(
        recurrent_map, torchao.Int8DynamicActivationInt8WeightConfig(), lambda module, _: True
    )
    assert "only one of the input and recurrent weights" in model.engine_info()["inference"]
