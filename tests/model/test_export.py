"""Graphs of the model: torch.compile, torch.export, ONNX."""

import warnings

import pytest
import torch
from torch import nn

from elmo_hf import ElmoConfig, ElmoModel

SIZES = [(3, 5), (2, 11), (5, 2), (1, 1), (4, 37)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ElmoConfig(
        cell_dim=32, projection_dim=16, filters=[[1, 8], [3, 16]], num_highway_layers=1
    )
    return ElmoModel(config).eval()


def words(batch, length):
    draw = torch.Generator().manual_seed(length)
    input_ids = torch.randint(1, 262, (batch, length, 50), generator=draw)
    input_ids[0, length // 2 + 1 :] = 0
    return input_ids, input_ids.any(-1)


@torch.no_grad()
def layers(model, input_ids, mask):
    return model(input_ids, mask, output_hidden_states=True).hidden_states


class Layers(nn.Module):
    """An ElmoModel whose output is its layers."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask, output_hidden_states=True).hidden_states


def check(found, expected):
    for layer, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(layer), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_an_exported_graph_serves_any_batch_and_any_number_of_words(model):
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(Layers(model), words(3, 5), dynamic_shapes=(sizes, sizes))
    for size in SIZES[:3]:
        check(exported.module()(*words(*size)), layers(model, *words(*size)))


@pytest.mark.slow
def test_onnx_serves_any_batch_and_any_number_of_words(model, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("words")}
    names = ["input_ids", "attention_mask"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Layers(model).eval(),
            words(3, 5),
            tmp_path / "elmo.onnx",
            dynamic_shapes=(sizes, sizes),
            input_names=names,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(tmp_path / "elmo.onnx")
    for size in SIZES:
        given = {name: part.numpy() for name, part in zip(names, words(*size), strict=True)}
        check(session.run(None, given), layers(model, *words(*size)))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_model_gives_the_same_and_is_not_compiled_for_each_length(model, backend):
    torch.compiler.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(model, backend=count)
    for batch, length in [(3, 5), (4, 7), (2, 9)]:
        check(layers(compiled, *words(batch, length)), layers(model, *words(batch, length)))
    known = len(graphs)
    for length in (12, 19, 31, 64):
        check(layers(compiled, *words(4, length)), layers(model, *words(4, length)))
    assert len(graphs) == known
