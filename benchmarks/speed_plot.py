"""Draw horizontal bars of words per second as an SVG that does not depend on fonts."""

from pathlib import Path

OURS, PEER, INK = "#1a7f64", "#8c959f", "#24292f"


def draw(groups: dict[str, list[tuple[str, float, str]]], file: Path) -> None:
    """
    Draw groups of bars, each group with its own scale; needs the extra `benchmarks`.

    Args:
        groups: by title, bars of (name, value, label); names that begin with "elmo_hf" get
            another color.
        file: the SVG to write.
    """
    from matplotlib import rc_context

    # Letters are drawn as shapes, because another font could make them wider.
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "elmo_hf"}):
        make_figure(groups).savefig(file, metadata={"Date": None})


def make_figure(groups: dict[str, list[tuple[str, float, str]]]):
    """Return the matplotlib figure for `draw`."""
    from matplotlib.figure import Figure

    heights = [len(bars) + 1.5 for bars in groups.values()]
    figure = Figure(figsize=(8, 0.3 * sum(heights)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(groups), height_ratios=heights, squeeze=False)[:, 0]
    for panel, (title, bars) in zip(panels, groups.items(), strict=True):
        draw_panel(panel, title, bars)
    return figure


def draw_panel(panel, title: str, bars: list[tuple[str, float, str]]) -> None:
    names, values, labels = zip(*bars, strict=True)
    colors = [OURS if name.startswith("elmo_hf") else PEER for name in names]
    drawn = panel.barh(range(len(bars)), values, color=colors)
    panel.bar_label(drawn, labels, padding=4, color=INK)
    panel.set_yticks(range(len(bars)), names, color=INK)
    panel.invert_yaxis()  # the first bar on top
    panel.set_title(title, loc="left", fontweight="bold", fontsize=11, color=INK)
    panel.set_xlim(0, 1.3 * max(values))  # room for the labels
    panel.set_xticks([])
    panel.tick_params(left=False)
    panel.spines[:].set_visible(False)
