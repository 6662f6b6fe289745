"""Draws what stands on what: the application, primitives, the composer, providers, backends."""

from drawing import AMBER, BLUE, GREEN, GREY, Picture

PRIMITIVES = (("cached", "TTLCache"), ("Lock", "TaskLock"), ("RateLimiter",), ("CircuitBreaker",))
BACKENDS = (("memory",), ("Redis",), ("PostgreSQL",), ("yours",))


def draw() -> None:
    """Draw it."""
    picture = Picture(
        "architecture",
        520,
        318,
        "An application uses primitives; the open app gives them what providers make of backends",
    )
    picture.box(10, 8, 500, 36, "your views, jobs and workers")
    for number, lines in enumerate(PRIMITIVES):
        x = 10 + 128 * number
        picture.path(f"M{x + 58} 44 V68", arrow=True)
        picture.box(x, 72, 116, 44, *lines, colour=BLUE)
        picture.path(f"M{x + 58} 116 V140", BLUE, arrow=True)
    picture.box(
        10, 144, 500, 44, "Grelmicro", "the open app: which backend serves what", colour=GREEN
    )
    for number, lines in enumerate(BACKENDS):
        x = 10 + 128 * number
        dashes = "4 4" if lines == ("yours",) else ""
        picture.path(f"M{x + 58} 188 V226", GREEN, arrow=True, dashes=dashes)
        picture.box(x, 230, 116, 36, *lines, colour=GREY if dashes else AMBER)
    picture.text(260, 296, "chosen in one place: GRELMICRO_URL=redis://... or postgresql://...")
    picture.save()


if __name__ == "__main__":
    draw()
