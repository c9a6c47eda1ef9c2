import pytest

from app.database.libpq import target

BASE = "postgresql+asyncpg://ada:p%40ss@db/priohook"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        (BASE, ((None, None),)),
        (f"{BASE}?port=6432", (("db", 6432),)),
        ("postgresql://ada@/priohook?host=a,b,c", (("a", None), ("b", None), ("c", None))),
        ("postgresql://ada@/priohook?host=a:1,b:2", (("a", 1), ("b", 2))),
        ("postgresql://ada@/priohook?host=a:1&host=b:2", (("a", 1), ("b", 2))),
        ("postgresql://ada@/priohook?host=a,b&port=1,2", (("a", 1), ("b", 2))),
        ("postgresql://ada@/priohook?host=a,b&port=1", (("a", 1), ("b", 1))),
        ("postgresql://ada@:5433/priohook?host=a,b", (("a", 5433), ("b", 5433))),
        (
            "postgresql://ada@/priohook?host=[::1]:5,::1,/run/postgresql",
            (("::1", 5), ("::1", None), ("/run/postgresql", None)),
        ),
        ("postgresql://ada@/priohook?hostaddr=10.0.0.1", (("10.0.0.1", None),)),
    ],
)
def test_hosts_are_tried_in_the_order_of_the_url(url, hosts):
    assert target(url).hosts == hosts


def test_each_parameter_is_taken_by_the_driver_at_the_start_or_in_the_session_or_named_as_ignored():
    query = (
        "?sslmode=require&connect_timeout=7&application_name=x&options=endpoint%3Done&search_path=ours"
        "&channel_binding=require&target_session_attrs=any&keepalives_idle=30&gssencmode=disable&tcp_user_timeout=1000"
    )
    wanted = target(BASE + query)
    assert wanted.dsn == "postgresql://ada:p%40ss@db/priohook?sslmode=require"
    assert wanted.connect_timeout == 7
    assert wanted.startup == {"application_name": "x", "options": "endpoint=one"}
    assert wanted.session == {"search_path": "ours"}
    assert wanted.ignored == ("channel_binding", "gssencmode", "target_session_attrs")
    assert wanted.keepalive["keepalives_idle"] == 30
    assert wanted.keepalive["tcp_user_timeout"] == 1000


@pytest.mark.parametrize("ssl", ["require", "verify-full", "disable"])
def test_sslmode_as_others_write_it_is_not_overlooked(ssl):
    assert target(f"{BASE}?ssl={ssl}").dsn.endswith(f"?sslmode={ssl}")


def test_a_parameter_without_a_value_is_none():
    assert target(f"{BASE}?sslmode=&connect_timeout=") == target(BASE)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("connect_timeout=soon", "connect_timeout is not a whole number"),
        ("host=a&port=x", "port is not a number"),
        ("host=a&port=0", "port is not a number"),
        ("host=a,b,c&port=1,2", "port has 2 values, but host has 3"),
    ],
)
def test_a_value_that_cannot_be_read_is_named(query, why):
    with pytest.raises(ValueError, match=why):
        target(f"{BASE}?{query}")
