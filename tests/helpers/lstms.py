"""LSTMs of one layer with inputs for them, and a CUDA graph played on a CPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from elmo_hf import ElmoConfig
from elmo_hf.model import engine_gpu_triton
from elmo_hf.model.layer_lstm import ElmoLstm


def make_lstms(directions=2, dtype=torch.float32, device="cpu", **changes):
    torch.manual_seed(0)
    sizes = {"cell_dim": 20, "projection_dim": 12, "cell_clip": 0.8, "projection_clip": 0.3}
    config = ElmoConfig(**{**sizes, **changes})
    lstms = [ElmoLstm(config, reverse=bool(d)).to(device, dtype) for d in range(directions)]
    for lstm in lstms:
        for parameter in lstm.parameters():
            parameter.data.mul_(2)
    return lstms


WORDS = 4 if engine_gpu_triton.INTERPRETED else 11  # the interpreter takes its time


def make_batch(lstms, batch=5, words=WORDS, seed=1):
    """Inputs, masks with padding on the left, on the right, inside and everywhere, and states."""
    draw = torch.Generator().manual_seed(seed)
    weight = lstms[0].input_map.weight
    width, cell = weight.shape[1], weight.shape[0] // 4
    inputs, masks, states = [], [], []
    for _ in lstms:
        mask = torch.rand(batch, words, generator=draw) < 0.8
        for row, padding in enumerate((slice(0, 2), slice(-3, None), slice(None))):
            if row < batch - 1:
                mask[row] = True
                mask[row, padding] = False
        hidden = torch.randn(batch, width, generator=draw) / 4
        memory = torch.randn(batch, cell, generator=draw) / 2
        values = torch.randn(batch, words, width, generator=draw)
        precision = torch.promote_types(weight.dtype, torch.float32)
        inputs.append(values.to(weight))
        masks.append(mask.to(weight.device))
        states.append((hidden.to(weight), memory.to(weight.device, precision)))
    return inputs, masks, states


def describe(lstms):
    return [lstm.weights() for lstm in lstms], [lstm.settings() for lstm in lstms]


def flatten(results):
    return [part for output, state in results for part in (output, *state)]


class Recorder:
    """Plays a CUDA graph: a capture changes nothing, a replay runs the same on the same memory."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, read):
        calls, before = [], {}

        class Record(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                for tensor in tensors_of((args, kwargs)):
                    storage = tensor.untyped_storage()
                    before.setdefault(storage.data_ptr(), (storage, storage.clone()))
                calls.append((function, args, kwargs or {}, function(*args, **(kwargs or {}))))
                return calls[-1][-1]

        with Record():
            read()
        for storage, content in before.values():
            storage.copy_(content)
        self.captures += 1
        return lambda: self.replay(calls)

    def replay(self, calls):
        self.replays += 1
        for function, args, kwargs, result in calls:
            again = function(*args, **kwargs)
            for old, new in zip(tensors_of(result), tensors_of(again), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
