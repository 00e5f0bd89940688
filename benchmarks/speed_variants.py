"""Define the variants to measure, and the functions that load their programs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

PIECES_PER_WORD = 1.3  # of English in BERT's vocabulary


@dataclass(frozen=True)
class Variant:
    """
    Class that describes one row of the table.

    Args:
        program: the name of the program.
        loader: key of `LOADERS`, or "allennlp", which is in `speed_allennlp`.
        precision: precision of weights and products; it also sets the allowed error.
        trains: measure a training step too.
        modes: the modes of inference to measure.
        sorts: sort the sentences of the corpus by length.
        every: measure only every n-th batch of the corpus (see `Worker.corpus`).
        longest: the longest sentence that the program can read, in words.
        swept: measure against sentence length, batch size, variety and cores too.
    """

    program: str
    loader: str
    precision: str = "float32"
    trains: bool = False
    modes: tuple[str, ...] = ("corpus", "batch", "single")
    sorts: bool = True
    every: int = 1
    longest: int | None = None
    swept: bool = False

    @property
    def name(self) -> str:
        short = self.precision.replace("float32", "").replace("bfloat16", "bf16")
        return f"{self.program} {short}".strip()

    @property
    def is_elmo(self) -> bool:
        return self.loader != "bert"


ALLENNLP = Variant("AllenNLP", "allennlp", trains=True, sorts=False, every=4, swept=True)
REFERENCE = Variant("reference", "reference", "float64")
VARIANTS = [
    ALLENNLP,
    Variant("AllenNLP, sentences sorted", "allennlp", modes=("corpus",), every=4),
    Variant("elmo_hf, reference engine", "reference", trains=True, every=4),
    Variant("elmo_hf", "ours", trains=True, swept=True),
    Variant("elmo_hf", "ours", "bfloat16", trains=True, swept=True),
    Variant("elmo_hf", "ours", "int8"),
    Variant("elmo_hf, known words", "cached", modes=("batch", "single")),
    Variant("elmo_hf, known words", "cached", "bfloat16", modes=("batch", "single")),
    Variant("BERT-base", "bert", every=4, longest=390, swept=True),
    Variant("BERT-base", "bert", "bfloat16", every=4, longest=390),
]


def load_ours(folder: str, precision: str) -> tuple[Callable, torch.nn.Module]:
    """Load our model with the default choice of the engine."""
    from elmo_hf import ElmoModel, ElmoTokenizer

    tokenizer = ElmoTokenizer.from_pretrained(Path(folder) / "converted")
    # AllenNLP's biLM has no dropout.
    model = ElmoModel.from_pretrained(
        Path(folder) / "converted", dropout=0.0, **at_precision(precision)
    ).eval()

    def forward(batch):
        inputs = tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt")
        output = model(**inputs, output_hidden_states=True)
        return output.hidden_states, inputs["attention_mask"]

    corpus = corpus_helper(model, tokenizer)
    if corpus is not None:
        forward.corpus = corpus
    return forward, model


def load_reference(folder: str, precision: str) -> tuple[Callable, torch.nn.Module]:
    """Load our model with the reference engine."""
    from elmo_hf import use_engine

    forward, model = load_ours(folder, precision)

    def reference_forward(batch):
        with use_engine("reference"):
            return forward(batch)

    return reference_forward, model


def load_cached(folder: str, precision: str) -> tuple[Callable, torch.nn.Module]:
    """Load our model with a cache of the character encoder's vectors."""
    forward, model = load_ours(folder, precision)
    model.embeddings.word_cache().__enter__()  # for as long as the process lives
    return forward, model


def load_bert(folder: str, precision: str) -> tuple[Callable, torch.nn.Module]:
    """Load BERT-base with random weights; its input is random word pieces, which cost no time."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(), add_pooling_layer=False).to(getattr(torch, precision)).eval()
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, model.config.vocab_size, (512,), generator=draw)

    def forward(batch):
        lengths = torch.tensor([2 + round(PIECES_PER_WORD * len(sentence)) for sentence in batch])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        input_ids = ids[: mask.shape[1]].expand(mask.shape) * mask
        output = model(input_ids, attention_mask=mask.long())
        return [output.last_hidden_state], mask

    return forward, model


def at_precision(precision: str) -> dict:
    """Return the arguments of `from_pretrained` for a precision."""
    if precision != "int8":
        return {"dtype": getattr(torch, precision)}
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from transformers import TorchAoConfig

    return {"quantization_config": TorchAoConfig(Int8DynamicActivationInt8WeightConfig())}


def corpus_helper(model: torch.nn.Module, tokenizer: object) -> Callable | None:
    """Return a function that embeds many sentences; None if elmo_hf has no `embed_corpus`."""
    try:
        from elmo_hf.embedding import embed_corpus
    except ImportError:
        return None
    return lambda sentences: embed_corpus(model, tokenizer, sentences)


def recurrent_weight(model: torch.nn.Module) -> torch.nn.Parameter:
    """Return the recurrent weight of the first layer: its gradient passes through all layers."""
    return model.layers[0].forward_lstm.recurrent_map.weight


LOADERS = {"ours": load_ours, "cached": load_cached, "reference": load_reference, "bert": load_bert}
