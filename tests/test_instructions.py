import pytest

from bench.instructions import FLOOR, LAYERS, RECORDED, WARM_UP, exceeding, run
from bench.load import KINDS

pytestmark = pytest.mark.slow

RECORD = {FLOOR: {"order": 100.0}, "+ endpoint": {"order": 400.0}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_answers_all_events_with_200(layer, kind):
    run(layer, kind, WARM_UP)


def test_a_figure_may_exceed_the_recorded_one_by_five_percent():
    assert not list(exceeding({FLOOR: {"order": 100.0}, "+ endpoint": {"order": 419.0}}, RECORD))
    (sentence,) = exceeding({FLOOR: {"order": 100.0}, "+ endpoint": {"order": 421.0}}, RECORD)
    assert sentence == "+ endpoint: 421 thousand instructions for each order, more than 420."


def test_a_python_that_takes_more_for_everything_is_not_blamed_on_us():
    assert not list(exceeding({FLOOR: {"order": 150.0}, "+ endpoint": {"order": 600.0}}, RECORD))
    assert list(exceeding({FLOOR: {"order": 80.0}, "+ endpoint": {"order": 400.0}}, RECORD))


def test_layers_that_were_not_measured_are_not_judged():
    assert not list(exceeding({FLOOR: {"order": 100.0}}, RECORD))


def test_the_figures_of_all_layers_are_recorded():
    assert RECORDED.exists()
