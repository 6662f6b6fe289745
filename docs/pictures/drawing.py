"""Pictures as SVG, drawn with the page's own colours: what is written inherits its text colour.

    python docs/pictures/drawing.py

draws all of them again. `stampede.py --run` measures before it draws.
"""

import runpy
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
BLUE, GREEN, RED, AMBER, GREY = "#3f8efc", "#2fa36b", "#e5484d", "#d98b1f", "#8b8d98"
"""Of middling lightness: they stand out on white and on black."""

ARROW = (
    '<marker id="{id}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'
)


class Picture:
    """A picture so many units wide and high, for a column of text.

    Args:
        name: The file's name, without its suffix.
        width: In units of about a pixel; on a phone two thirds of one, so not above 520.
        height: As well.
        says: What it shows, for those who do not see it.
    """

    def __init__(self, name: str, width: int, height: int, says: str) -> None:
        self.name = name
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(says)}" fill="none" font-family="inherit" font-size="13" '
            f'style="display:block;margin:1.5em auto;width:100%;max-width:{width * 1.25:.0f}px">'
        ]
        for colour in (BLUE, GREEN, RED, AMBER, GREY):
            self._parts.append(ARROW.format(id=self._arrow(colour), colour=colour))

    def _arrow(self, colour: str) -> str:
        return f"{self.name}-{colour[1:]}"

    def text(
        self, x: float, y: float, what: str, *, at: str = "middle", colour: str = "", size: int = 13
    ) -> None:
        """Write at a point: `at` it begins, is centred (`middle`) or ends."""
        fill = colour or "currentColor"
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{at}" fill="{fill}" font-size="{size}">'
            f"{escape(what)}</text>"
        )

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, colour: str = GREY
    ) -> None:
        """Draw a box with lines of text in its middle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
            f'fill="{colour}" fill-opacity=".14" stroke="{colour}" stroke-width="1.3"/>'
        )
        top = y + height / 2 - 8 * (len(lines) - 1) + 4.5
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + 16 * number, line)

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Draw a filled rectangle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
            f'fill="{colour}" fill-opacity=".85"/>'
        )

    def path(self, path: str, colour: str = GREY, *, arrow: bool = False, dashes: str = "") -> None:
        """Draw a line, in the words of SVG: `M0 0 H10`."""
        head = f' marker-end="url(#{self._arrow(colour)})"' if arrow else ""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._parts.append(f'<path d="{path}" stroke="{colour}" stroke-width="1.6"{dashed}{head}/>')

    def save(self) -> Path:
        """Write the file beside this one; where it is."""
        place = HERE / f"{self.name}.svg"
        # One line each, and no blank one: it is put into pages as it is.
        place.write_text("\n".join([*self._parts, "</svg>"]) + "\n")
        return place


if __name__ == "__main__":
    for script in sorted(HERE.glob("*.py")):
        if script.name != Path(__file__).name:
            runpy.run_path(str(script), run_name="__main__")
