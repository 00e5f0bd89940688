"""AllenNLP 2.10.1, the last release, made to import beside today's torch.

It demands torch below 1.13 and some twenty packages, of which ELMo computes with torch, numpy and
h5py alone. So it is installed without its dependencies, and this file

- gives its packages without running their `__init__.py`, which import every model there is; what
  ELMo takes from a package instead of from one of its modules is looked up when asked for;
- puts empty stand-ins where a module names a class of a package that is not there: base58, dill,
  spacy and transformers, for spaCy models, saved checkpoints and annotations of types;
- replaces `allennlp.common.file_utils` (downloads and caches) by a `cached_path` that gives the
  path back;
- leaves out the first random weights of each LSTM, which the file's weights overwrite at once.

What is measured, `batch_to_ids` and `_ElmoBiLm`, is AllenNLP's own code, unchanged.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

# Of each package: where the names that ELMo imports from it are defined.
PACKAGES = {
    "allennlp": {},
    "allennlp.common": {
        "FromParams": "from_params",
        "JsonDict": "util",
        "Lazy": "lazy",
        "Params": "params",
        "Registrable": "registrable",
        "Tqdm": "tqdm",
    },
    "allennlp.data": {},
    "allennlp.data.fields": {"TextField": "text_field"},
    "allennlp.data.token_indexers": {"TokenIndexer": "token_indexer"},
    "allennlp.data.tokenizers": {"Token": "token_class"},
    "allennlp.modules": {},
    "allennlp.nn": {},
}
MISSING = {
    "base58": [],
    "dill": [],
    "spacy": [],
    "spacy.cli": [],
    "spacy.cli.download": ["download"],
    "spacy.language": ["Language"],
    "spacy.tokens": ["Token"],
    "transformers": ["PreTrainedTokenizer"],
}


def load(folder: str, precision: str) -> tuple[Callable, object]:
    """The function from a batch of sentences to layers and mask, and the torch module in it."""
    install()
    elmo = importlib.import_module("allennlp.modules.elmo")
    cells = importlib.import_module("allennlp.modules.lstm_cell_with_projection")
    cells.block_orthogonal = lambda *_, **__: None
    original = Path(folder) / "original"
    bilm = elmo._ElmoBiLm(str(original / "options.json"), str(original / "weights.hdf5")).eval()

    def forward(batch):
        # It would carry the memory of one batch into the next.
        bilm._elmo_lstm.reset_states()
        output = bilm(elmo.batch_to_ids(batch))
        return output["activations"], output["mask"]

    return forward, bilm


def recurrent_weight(bilm):
    """The weight whose gradient has come through everything: first layer, recurrent map."""
    return bilm._elmo_lstm.forward_layer_0.state_linearity.weight


def install() -> None:
    """Make `import allennlp.modules.elmo` work in this process."""
    # torch looks for dill by its specification, so it must be read before the stand-ins are there.
    import torch  # noqa: F401

    for name, attributes in MISSING.items():
        stand_in = add_module(name)
        for attribute in attributes:
            setattr(stand_in, attribute, type(attribute, (), {}))
    root = Path(importlib.util.find_spec("allennlp").origin).parent
    for name, places in PACKAGES.items():
        package = add_module(name, root.joinpath(*name.split(".")[1:]))
        package.__getattr__ = finder(name, places)
    file_utils = add_module("allennlp.common.file_utils")
    file_utils.cached_path = lambda path, *_, **__: path
    file_utils.FileLock = None


def add_module(name: str, folder: Path | None = None) -> types.ModuleType:
    """An empty module; a package that finds its modules where it has a folder."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = [str(folder)] if folder else []
    sys.modules[name] = module
    return module


def finder(package: str, places: dict[str, str]) -> Callable:
    """A package's `__getattr__`: names that its `__init__.py` would have imported."""

    def find(name):
        if name in places:
            return getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        raise AttributeError(f"module {package} has no attribute {name}")

    return find
