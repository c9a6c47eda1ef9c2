import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.deliveries.destinations.names import name, token
from app.settings.brokers import LONGEST_VALUE

TEXT = st.text(st.characters(exclude_categories=()), max_size=200)


@pytest.mark.parametrize(
    ("reference", "subject"),
    [
        ("PRI-1_a", "prioticket.ORDER_UPDATE.PRI-1_a"),
        ("a.b", "prioticket.ORDER_UPDATE.a%2Eb"),
        (">", "prioticket.ORDER_UPDATE.%3E"),
        ("* #", "prioticket.ORDER_UPDATE.%2A%20%23"),
        ("a\r\nPUB x 1", "prioticket.ORDER_UPDATE.a%0D%0APUB%20x%201"),
        ("{type}", "prioticket.ORDER_UPDATE.%7Btype%7D"),
        ("café", "prioticket.ORDER_UPDATE.caf%C3%A9"),
        ("", "prioticket.ORDER_UPDATE._"),
        (None, "prioticket.ORDER_UPDATE._"),
        ("_", "prioticket.ORDER_UPDATE.%5F"),
    ],
)
def test_whatever_a_sender_writes_becomes_one_token(reference, subject):
    template = "prioticket.{type}.{reference}"
    assert name(template, event_type="ORDER_UPDATE", reference=reference) == subject


def test_a_topic_of_kafkas_has_no_percent_sign():
    assert name("orders.{type}", event_type="A B%", reference=None, mark=".") == "orders.A.20B.25"


@given(TEXT)
def test_a_token_is_short_and_of_harmless_characters(value):
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", token(value))
    assert len(token(value)) <= LONGEST_VALUE


@given(TEXT, TEXT)
def test_different_values_have_different_tokens(one, other):
    assert (token(one) == token(other)) == (one.encode("utf-8", "replace") == other.encode("utf-8", "replace"))


def test_long_values_that_begin_alike_stay_different():
    assert token("x" * 200) != token("x" * 201)
