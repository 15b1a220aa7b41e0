import pytest
from matplotlib.colors import to_rgb

from bai_pipeline.report.colours import DARK_PAGE, bucket_look, colour, look, marker

INITS = ["paradigm_1", "paradigm_3", *(f"alpha {i / 10}" for i in range(11))]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""

    def luminance(colour: str) -> float:
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_init_has_a_colour_of_its_own_in_the_light_and_in_the_dark() -> None:
    assert len({colour(init) for init in INITS}) == len(INITS)
    assert len({look(init).dark for init in INITS}) == len(INITS)


def test_the_way_an_alpha_is_written_does_not_change_its_look() -> None:
    assert look("alpha 0.1") == look("alpha 0.10")


def test_neighbouring_alphas_have_different_markers() -> None:
    assert all(marker(f"alpha {i / 10}") != marker(f"alpha {(i + 1) / 10}") for i in range(10))


@pytest.mark.parametrize("of", [look(init) for init in INITS] + [bucket_look(i, 11) for i in range(12)])
def test_every_line_can_be_seen_on_the_dark_page(of: object) -> None:
    assert contrast(of.dark, DARK_PAGE) >= 2.99  # type: ignore[attr-defined]


def test_a_bucket_looks_the_same_wherever_the_last_one_is_the_same() -> None:
    assert bucket_look(3, 11) == bucket_look(3, 11)
    assert len({bucket_look(i, 11).light for i in range(12)}) == 12
