"""Draws the states of a circuit breaker, and what leads from one to another."""

from drawing import AMBER, GREEN, GREY, RED, Picture


def draw() -> None:
    """Draw it."""
    picture = Picture(
        "breaker",
        520,
        290,
        "Closed becomes open after errors, open becomes half-open after its time, and half-open "
        "becomes closed after successes or open after one failure",
    )
    picture.box(10, 30, 130, 56, "CLOSED", "calls pass", colour=GREEN)
    picture.box(380, 30, 130, 56, "OPEN", "calls are refused", colour=RED)
    picture.box(195, 136, 130, 56, "HALF_OPEN", "a few calls pass", colour=AMBER)
    picture.path("M140 48 H376", RED, arrow=True)
    picture.text(260, 22, "error_threshold errors in a row,", size=12)
    picture.text(260, 38, "or failure_rate, slow_call_rate", size=12)
    picture.path("M470 86 V174 H329", AMBER, arrow=True)
    picture.text(428, 192, "after reset_timeout", size=12)
    picture.path("M300 136 V74 H376", RED, arrow=True)
    picture.text(306, 110, "one failure", at="start", size=12)
    picture.path("M195 164 H75 V90", GREEN, arrow=True)
    picture.text(96, 182, "success_threshold", size=12)
    picture.text(96, 197, "successes", size=12)
    picture.box(60, 232, 190, 30, "FORCED_CLOSED", colour=GREY)
    picture.box(270, 232, 190, 30, "FORCED_OPEN", colour=GREY)
    picture.text(260, 280, "these are set, and left, by hand", size=12)
    picture.save()


if __name__ == "__main__":
    draw()
