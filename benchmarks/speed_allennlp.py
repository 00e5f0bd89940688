"""Import ELMo from AllenNLP 2.10.1, the last release, with a current torch.

AllenNLP requires torch below 1.13 and some twenty packages, but its ELMo needs only torch, numpy
and h5py. So it is installed without its dependencies, and this file

- creates its packages without running their `__init__.py`, which import every model; names that
  ELMo imports from a package instead of from a module are looked up when needed;
- creates empty stand-ins for classes of missing packages: base58, dill, spacy and transformers,
  which are used for spaCy models, saved checkpoints and type annotations;
- replaces `allennlp.common.file_utils` (downloads and caches) by a `cached_path` that returns its
  argument;
- skips the random initialization of each LSTM, because the weights of the file replace it.

The code that is measured, `batch_to_ids` and `_ElmoBiLm`, is AllenNLP's own, unchanged.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

# Per package: the names that ELMo imports from it, and the modules that define them.
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
    """Return the function from a batch of sentences to layers and mask, and its torch module."""
    install()
    elmo = importlib.import_module("allennlp.modules.elmo")
    cells = importlib.import_module("allennlp.modules.lstm_cell_with_projection")
    cells.block_orthogonal = lambda *_, **__: None
    original = Path(folder) / "original"
    bilm = elmo._ElmoBiLm(str(original / "options.json"), str(original / "weights.hdf5")).eval()

    def forward(batch):
        # Otherwise the LSTM states of one batch are carried into the next.
        bilm._elmo_lstm.reset_states()
        output = bilm(elmo.batch_to_ids(batch))
        return output["activations"], output["mask"]

    return forward, bilm


def recurrent_weight(bilm):
    """Return the recurrent weight of the first layer: its gradient passes through all layers."""
    return bilm._elmo_lstm.forward_layer_0.state_linearity.weight


def install() -> None:
    """Make `import allennlp.modules.elmo` work in this process."""
    # torch checks for dill when it is imported, so import it before the stand-ins exist.
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
    """Add an empty module to sys.modules; with a folder, a package that finds its modules."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = [str(folder)] if folder else []
    sys.modules[name] = module
    return module


def finder(package: str, places: dict[str, str]) -> Callable:
    """Return a `__getattr__` that imports the names which the package's `__init__.py` would."""

    def find(name):
        if name in places:
            return getattr(importlib.import_module(f"{package}.{places[name]}"), name)
        raise AttributeError(f"module {package} has no attribute {name}")

    return find
