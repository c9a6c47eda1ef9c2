from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.web.pagination import CursorNotUsable, PageQuery, link, new_cursor, next_page, read_cursor

FILTERS = st.dictionaries(st.sampled_from(["type", "reference", "since", "q"]), st.text())
LAST = UUID("01987f6e-0000-7000-8000-000000000001")


@given(st.uuids(), FILTERS)
def test_a_cursor_gives_back_its_id(last, filters):
    assert read_cursor(new_cursor(last, filters), filters) == last


@given(st.uuids(), FILTERS, FILTERS)
def test_a_cursor_fits_its_own_filters_only(last, filters, others):
    if filters != others:
        with pytest.raises(CursorNotUsable):
            read_cursor(new_cursor(last, filters), others)


@given(st.text())
def test_whatever_is_no_cursor_is_refused(text):
    with pytest.raises(CursorNotUsable):
        read_cursor(text, {})


@given(st.integers(0, 31), st.characters())
def test_a_cursor_has_one_spelling(place, character):
    cursor = new_cursor(LAST, {})
    changed = cursor[:place] + character + cursor[place + 1 :]
    try:
        read = read_cursor(changed, {})
    except CursorNotUsable:
        return
    assert changed == cursor or read != LAST


def test_the_next_page_keeps_the_filters_and_names_no_host():
    class Query(PageQuery):
        type: str | None = None

    address = next_page("/api/events", Query(type="A B", limit=7), LAST)
    assert address == f"/api/events?type=A+B&limit=7&cursor={new_cursor(LAST, {'type': 'A B'})}"
    assert link(address) == {"Link": f'<{address}>; rel="next"'}


def test_the_last_page_links_nowhere():
    assert next_page("/api/events", PageQuery(), None) is None
    assert link(None) == {}
