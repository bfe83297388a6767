"""Charts: values stand where they belong, gaps stay gaps, and nothing depends on colour alone."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.report.charts import HEIGHT, MOST_POINTS, WIDTH, Chart, Line, bar, dumbbell, line_chart, thinned
from chainft.report.confusion import confusion_view, most_confused
from chainft.report.histogram import length_chart, read_lengths
from chainft.report.markup import coordinate
from chainft.report.scale import fitted, linear, logarithmic
from chainft.tasks.base import Confusion

LEFT, RIGHT, TOP, FLOOR = 58.0, WIDTH - 14, 20.0, HEIGHT - 42
CHART = Chart("Loss", "lower is better", "step")


def paths(figure: str) -> list[str]:
    return re.findall(r'<path d="([^"]*)" class="curve', figure.split("</figcaption>")[1])


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_values_stand_at_their_places():
    figure = line_chart(CHART, [Line("train", ((0, 0.0), (50, 1.0), (100, 2.0)))])
    middle = (LEFT + RIGHT) / 2
    assert points(paths(str(figure))[0]) == [(LEFT, FLOOR), (middle, (FLOOR + TOP) / 2), (RIGHT, TOP)]


def test_point_without_value_is_a_gap():
    figure = line_chart(CHART, [Line("train", ((0, 1.0), (1, None), (2, math.nan), (3, 1.0), (4, 2.0)))])
    assert re.sub(r"[\d. ]", "", paths(str(figure))[0]) == "MML"


def test_lines_differ_in_more_than_colour():
    lines = [Line(name, ((0, 1.0), (1, 2.0)), style, marked=True) for style, name in enumerate("abcd")]
    figure = str(line_chart(CHART, lines))
    patterns = [re.search(r'stroke-dasharray="([^"]*)"', part) for part in figure.split('class="curve ')[1:5]]
    assert len({found[1] if found else None for found in patterns}) == 4


def test_neighbouring_charts_share_their_steps():
    figure = line_chart(Chart("F1", "", "step", zero=False, ends=(0.0, 100.0)), [Line("f1", ((50, 0.5), (100, 0.7)))])
    assert [x for x, _ in points(paths(str(figure))[0])] == [(LEFT + RIGHT) / 2, RIGHT]


def test_nearly_equal_scores_are_not_blown_up():
    figure = line_chart(Chart("F1", "", "step", zero=False), [Line("f1", ((0, 0.801), (1, 0.802)))])
    (_, first), (_, second) = points(paths(str(figure))[0])
    assert 0 < first - second < 0.05 * (FLOOR - TOP)


def test_no_points_make_no_chart():
    assert line_chart(CHART, [Line("train", ((0, None),)), Line("validation", ())]) is None


@pytest.mark.parametrize("value", [0.0, 1e-9, 5.0, 1e12, -3.0])
def test_single_point_is_drawn_as_a_marker(value):
    assert "marker" in str(line_chart(CHART, [Line("train", ((7, value),))]))


def test_huge_range_takes_a_logarithmic_axis():
    figure = str(line_chart(CHART, [Line("norm", ((0, 1e-3), (1, 1e3)))]))
    assert "logarithmic axis" in figure and ">1e-3<" not in figure and ">0.001<" in figure


def test_long_curves_are_thinned_to_means():
    curve = thinned([(step, float(step % 2)) for step in range(3 * MOST_POINTS)])
    assert len(curve) == MOST_POINTS
    assert curve[1] == (5, pytest.approx(2 / 3))


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30))
def test_every_value_stands_inside_its_axis(values):
    for scale in (linear(values, start=0, end=100, zero=True), linear(values, start=0, end=100)):
        assert all(0 <= scale.place(value) <= 100 for value in values)
        assert all(math.isfinite(tick) for tick in scale.ticks) and 2 <= len(scale.ticks) <= 12
        assert len(scale.labels()) == len(scale.ticks)
        slack = 1e-6 * max(map(abs, values)) + 1e-30
        assert scale.low <= min(values) + slack and scale.high >= max(values) - slack
    assert all(0 <= fitted(values, start=0, end=100).place(value) <= 100 for value in values)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 2.4], ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]),
        ([0.61, 0.84], ["0.60", "0.65", "0.70", "0.75", "0.80", "0.85"]),
        ([0, 3e-4], ["0", "1e-4", "2e-4", "3e-4"]),
        ([0, 41000], ["0", "10,000", "20,000", "30,000", "40,000", "50,000"]),
    ],
)
def test_ticks_are_round(values, labels):
    assert linear(values, start=0, end=1, count=5 if values[1] != 3e-4 else 3).labels() == labels


def test_logarithmic_axis_has_powers_of_ten():
    scale = logarithmic([0.03, 400], start=0, end=50)
    assert scale.ticks == (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    assert scale.place(1.0) == pytest.approx(20.0)


def test_bars_stay_in_their_frame():
    assert 'width="60" height="10" class="bar s0"' in bar(0.5)
    assert 'width="120" height="10" class="bar s0"' in bar(7.0)
    assert 'width="0" height="10" class="bar s0"' in bar(math.nan)


def test_dumbbell_places_before_and_after():
    assert re.findall(r'<circle cx="([\d.]+)"', dumbbell(0.0, 0.5)) == ["7", "90"]
    assert re.findall(r'<circle cx="([\d.]+)"', dumbbell(None, 1.0)) == ["173"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_drawing_refuses_what_is_not_finite(value):
    with pytest.raises(ValueError, match="no place"):
        coordinate(value)


def test_histogram_shows_shares_and_the_limit():
    lengths = read_lengths("train", {"edges": [0, 10, 20], "counts": [1, 3]})
    assert lengths is not None and lengths.shares == (0.25, 0.75)
    figure = str(length_chart([lengths], 20))
    assert "max_length 20" in figure and "0 to 10 tokens: 0.2500" in figure
    heights = [float(height) for height in re.findall(r'height="([\d.]+)" class="bar soft', figure)]
    assert heights[1] == pytest.approx(3 * heights[0], abs=0.2)


@pytest.mark.parametrize(
    "record", [None, {}, {"edges": [], "counts": []}, {"edges": [0, 1], "counts": [0]}, {"edges": [0], "counts": [4]}]
)
def test_no_lengths_make_no_histogram(record):
    assert read_lengths("train", record) is None
    assert length_chart([], 128) is None


def test_open_last_stretch_is_closed():
    lengths = read_lengths("train", {"edges": [0, 10, None], "counts": [1, 1]})
    assert lengths is not None and lengths.edges == (0.0, 10.0, 20.0)


def test_far_limit_is_told_without_squeezing_the_bars():
    lengths = read_lengths("train", {"edges": [0, 10, 20], "counts": [1, 3]})
    assert lengths is not None
    figure = str(length_chart([lengths], 512))
    assert "max_length 512 lies beyond" in figure
    left = [float(x) for x in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width', figure)]
    assert left[1] == pytest.approx((LEFT + RIGHT) / 2)


CONFUSION = Confusion("Classes", ("a", "b", "c"), ((8, 2, 0), (1, 9, 0), (5, 0, 5)))


def test_most_confused_come_first():
    assert most_confused(CONFUSION, 2) == [("c", "a", 5, 0.5), ("a", "b", 2, 0.2)]


def test_matrix_has_a_number_in_each_cell():
    view = confusion_view(CONFUSION)
    assert view.count('class="cell right"') == 3 and view.count('class="cell wrong"') == 6
    assert "c taken for a: 5" in view and "of 8 in all" in view


def test_empty_classes_and_none_confused_are_no_error():
    view = confusion_view(Confusion("Classes", ("a", "b"), ((0, 0), (0, 3))))
    assert "Nothing was mixed up" in view
