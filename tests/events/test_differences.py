from app.events.differences import LONGEST_PATH, MOST_CHANGES, differences


def test_each_leaf_that_differs_is_a_change_at_its_json_pointer():
    found = differences({"a": {"b/c": 1, "same": 2}, "gone": 3}, {"a": {"b/c": 4, "same": 2}, "new": [5]})
    assert [(each.path, each.kind, each.old, each.new) for each in found.changes] == [
        ("/a/b~1c", "changed", 1, 4),
        ("/gone", "removed", 3, None),
        ("/new", "added", None, [5]),
    ]
    assert not found.more


def test_no_more_than_the_most_are_shown():
    found = differences({}, {str(number): number for number in range(1, MOST_CHANGES + 2)})
    assert len(found.changes) == MOST_CHANGES
    assert found.more


def test_below_a_long_path_nothing_is_told_apart():
    name = "x" * 490_000
    (change,) = differences({name: {"a": 1, "b": 1}}, {name: {"a": 2, "b": 2}}).changes
    assert change.shortened
    assert len(change.path) == LONGEST_PATH
