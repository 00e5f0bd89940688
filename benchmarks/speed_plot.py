"""A bar for each variant as an SVG that reads well on light and on dark pages."""

from xml.sax.saxutils import escape

WIDTH, BAR, GAP, TITLE = 720, 18, 8, 34
LEFT, RIGHT = 140, 150  # room for names and for figures

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .title { font-weight: 600; }
  .ours { fill: #1a7f64; }
  .peer { fill: #8c959f; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .ours { fill: #3fb68f; }
    .peer { fill: #6e7681; }
  }
"""


def draw(groups: dict[str, list[tuple[str, float, str]]]) -> str:
    """
    Draw groups of bars, each group on its own scale.

    Args:
        groups: by title, bars of (name, value, the text behind the bar); names that begin with
            "elmo_hf" are ours.
    """
    parts, top = [], 8
    for title, bars in groups.items():
        parts.append(f'<text class="title" x="0" y="{top + 16}">{escape(title)}</text>')
        top += TITLE
        longest = max((value for _, value, _ in bars), default=1) or 1
        for name, value, label in bars:
            parts += draw_bar(top, name, value / longest, label)
            top += BAR + GAP
        top += GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" '
            f'aria-label="{escape(", ".join(groups), {chr(34): "&quot;"})}">',
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def draw_bar(top: int, name: str, part: float, label: str) -> list[str]:
    length = max(1.0, part * (WIDTH - LEFT - RIGHT))
    kind = "ours" if name.startswith("elmo_hf") else "peer"
    middle = top + BAR - 5
    return [
        f'<text x="{LEFT - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        f'<text x="{LEFT + length + 8:.1f}" y="{middle}">{escape(label)}</text>',
    ]
