"""See ELMo at work: original-format weights become a Hub folder, and "bank" gets its contexts.

Run it with `make demo`; it needs no network and no downloaded weights.
"""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

import elmo_hf
from conversion.convert import convert, convert_back

SENTENCES = [
    "We sat on the bank of the river and fished.",
    "The river burst its bank after the storm.",
    "The bank lent him money for a house.",
    "She opened an account at the bank.",
]


def original_checkpoint(folder: Path) -> Path:
    """Write a small model with random weights in the original format, as bilm-tf would."""
    torch.manual_seed(0)
    config = elmo_hf.ElmoConfig(
        cell_dim=512, projection_dim=64, num_highway_layers=1, filters=[[1, 32], [2, 32], [3, 64]]
    )
    elmo_hf.ElmoModel(config).save_pretrained(folder / "random")
    convert_back(folder / "random", folder / "original")
    return folder / "original"


def vectors_of(word: str, model, tokenizer) -> torch.Tensor:
    """Return the word's vector in each sentence and layer, `(layers, sentences, hidden_size)`."""
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden_states = model(**inputs, output_hidden_states=True).hidden_states
    print(f"input_ids {tuple(inputs['input_ids'].shape)}: sentences, words, characters")
    print(f"hidden_states: {len(hidden_states)} layers of {tuple(hidden_states[0].shape)}\n")
    places = [inputs.tokens(row).index(word) for row in range(len(SENTENCES))]
    return torch.stack([layer[range(len(SENTENCES)), places] for layer in hidden_states])


def print_similarities(vectors: torch.Tensor) -> None:
    """Print the cosine of each pair of sentences in each layer."""
    pairs = [(i, j) for i in range(len(SENTENCES)) for j in range(i + 1, len(SENTENCES))]
    print('cosine of "bank" in sentences  ' + "  ".join(f"{i + 1}-{j + 1}" for i, j in pairs))
    for number, layer in enumerate(vectors):
        cosines = [torch.cosine_similarity(layer[i], layer[j], dim=0) for i, j in pairs]
        name = "characters alone" if number == 0 else f"biLSTM {number}"
        print(f"layer {number} ({name}):".ljust(30), "  ".join(f"{c:.2f}" for c in cosines))


def main() -> None:
    """Write original files, convert and verify them, load the result, and look at one word."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        original = original_checkpoint(Path(scratch))
        print("original files:", ", ".join(sorted(path.name for path in original.iterdir())))
        folder = Path(scratch) / "elmo"
        for difference in convert(original, folder)["verification"]["differences"]:
            print("verified", difference["name"], f"to {difference['largest']:.0e}")
        model = AutoModel.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        print(f"\n{type(model).__name__} with {model.num_parameters():,} parameters")
        vectors = vectors_of("bank", model, tokenizer)
    for number, sentence in enumerate(SENTENCES, 1):
        print(f"  {number}  {sentence}")
    print_similarities(vectors)
    print(
        "\nThese weights are random: they show that the layers see the context, not what a trained "
        "\nmodel makes of it. For published weights: python -m conversion.convert SOURCE OUTPUT,"
        "\nthen AutoModel.from_pretrained(OUTPUT). The README goes on from here."
    )


if __name__ == "__main__":
    main()
