"""Draws the life of a lock: a lease that is renewed, one that ends unseen, and a late write."""

from drawing import BLUE, GREEN, GREY, RED, Picture


def draw() -> None:
    """Draw it."""
    picture = Picture(
        "lock",
        520,
        300,
        "One holder renews its lease, is frozen and loses it; a second one gets a higher fencing "
        "token, and the late write of the first is refused",
    )
    for y, name in ((62, "first"), (132, "second"), (222, "ledger")):
        picture.text(8, y + 5, name, at="start")
    picture.box(70, 44, 220, 36, "holds it, token 7", colour=BLUE)
    for x in (110, 150, 190):
        picture.path(f"M{x} 40 V28", BLUE)
    picture.text(150, 20, "renewed, every third of a lease", size=12)
    picture.text(240, 34, "frozen", colour=RED, size=12)
    picture.path("M240 40 V84", RED, dashes="3 3")
    picture.path("M290 30 V254", GREY, dashes="2 4")
    picture.text(296, 34, "its lease ends", at="start", size=12)
    picture.box(128, 114, 162, 36, "waits in the queue")
    picture.box(290, 114, 140, 36, "holds it, token 8", colour=GREEN)
    picture.path("M340 150 V200", GREEN, arrow=True)
    picture.box(302, 204, 84, 36, "written: 8", colour=GREEN)
    picture.path("M290 62 H458 V200", RED, arrow=True, dashes="5 4")
    picture.text(420, 56, "wakes, writes", colour=RED, size=12)
    picture.box(406, 204, 104, 36, "refused: 7 < 8", colour=RED)
    picture.path("M70 270 H508", arrow=True)
    picture.text(506, 290, "time", at="end", size=12)
    picture.save()


if __name__ == "__main__":
    draw()
