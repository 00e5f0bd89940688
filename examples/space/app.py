"""A Space that shows the senses of a word and fills gaps; see README.md beside this file."""

import math
import os

import gradio as gr

from elmo_hf import ElmoEmbedder, ElmoForPreTraining, ElmoTokenizer, fill_gaps
from elmo_hf.analysis import ElmoVectors, find_occurrences, map_senses
from elmo_hf.analysis.figures import draw_map

MODEL = os.environ.get("MODEL", "checkpoints/elmo-small-en")
MOST = 20_000  # characters
SENTENCES = """The bank lent him money for a new house.
She opened an account at the bank.
The bank raised its interest rates again.
The central bank issued new notes after the war.
We sat on the bank of the river and watched the boats.
Willows grew along the bank of the stream.
They built their camp on the north bank of the river.
Tall reeds hid the bank of the pond."""

tokenizer = ElmoTokenizer.from_pretrained(MODEL)
model = ElmoForPreTraining.from_pretrained(MODEL).eval()
vectors = ElmoVectors(ElmoEmbedder(model, tokenizer))


def show_map(text: str, words: str, layer: str):
    """Return the figure of a layer with a point for each place of the words."""
    sentences = [tokenizer.tokenize(line) for line in text.splitlines()]
    try:
        found = find_occurrences(enumerate(sentences, 1), words.split())
        sense_map = map_senses(vectors, found)
    except ValueError as error:
        raise gr.Error(str(error)) from error
    # Gradio shows no frames, so that the layers are buttons of its own.
    figure = draw_map(sense_map, vectors.layers.index(layer))
    return figure.update_layout(transition={"duration": 700})


def fill(sentence: str) -> list[list[str]]:
    """Return a row per candidate: the words from the left, from the right and from both sides."""
    columns = []
    try:
        for direction in ("forward", "backward", "both"):
            gap = fill_gaps(model, tokenizer, sentence, direction=direction)[0]
            columns.append(
                [
                    f"{best.word} ({math.exp(getattr(best, direction)):.1%})"
                    for best in gap.candidates
                ]
            )
    except ValueError as error:
        raise gr.Error(str(error)) from error
    return [[*row] for row in zip(*columns, strict=True)]


with gr.Blocks(title="ELMo") as app:
    gr.Markdown("# ELMo: one word, many vectors")
    with gr.Tab("Senses of a word"):
        text = gr.Textbox(SENTENCES, label="Sentences, one per line", lines=8, max_length=MOST)
        words = gr.Textbox("bank", label="One or more words")
        layer = gr.Radio(vectors.layers, value=vectors.layers[-1], label="Layer")
        draw = gr.Button("Draw")
        plot = gr.Plot(label="Each point is a place of a word")
        inputs = [text, words, layer]
        gr.on([draw.click, layer.change, app.load], show_map, inputs, plot)
    with gr.Tab("Fill a gap"):
        sentence = gr.Textbox("The boat reached the ___ of the river.", max_length=MOST)
        ask = gr.Button("Fill ___")
        headers = ["from the left", "from the right", "from both sides"]
        table = gr.Dataframe(headers=headers, interactive=False)
        gr.on([ask.click, sentence.submit], fill, sentence, table)

if __name__ == "__main__":
    app.launch()
