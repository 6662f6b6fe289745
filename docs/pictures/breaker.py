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
    picture.box(10, 60, 130, 56, "CLOSED", "calls pass", colour=GREEN)
    picture.box(380, 60, 130, 56, "OPEN", "calls are refused", colour=RED)
    picture.box(195, 166, 130, 56, "HALF_OPEN", "a few calls pass", colour=AMBER)
    picture.path("M140 78 H376", RED, arrow=True)
    picture.text(260, 52, "error_threshold errors in a row,", size=12)
    picture.text(260, 68, "or failure_rate, slow_call_rate", size=12)
    picture.path("M470 116 V204 H329", AMBER, arrow=True)
    picture.text(428, 222, "after reset_timeout", size=12)
    picture.path("M300 166 V104 H376", RED, arrow=True)
    picture.text(306, 140, "one failure", at="start", size=12)
    picture.path("M195 194 H75 V120", GREEN, arrow=True)
    picture.text(96, 212, "success_threshold", size=12)
    picture.text(96, 227, "successes", size=12)
    picture.box(60, 250, 190, 32, "FORCED_CLOSED", colour=GREY)
    picture.box(270, 250, 190, 32, "FORCED_OPEN", colour=GREY)
    picture.text(260, 20, "FORCED_ states are set and left by hand", size=12, colour=GREY)
    picture.save()


if __name__ == "__main__":
    draw()
