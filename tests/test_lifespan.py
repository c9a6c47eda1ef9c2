import pytest

from app.database.schema import SchemaNotCurrent
from tests.test_application import application


async def test_an_application_does_not_start_on_a_schema_that_is_not_current(tmp_path):
    app = application(database_url=f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(SchemaNotCurrent, match="priohook migrate"):
        async with app.lifespan_context(app):
            pass


async def test_making_an_application_opens_nothing(tmp_path):
    application(database_url=f"sqlite:///{tmp_path}/untouched.db")
    assert not (tmp_path / "untouched.db").exists()


async def test_an_application_can_be_started_again(start, sqlite_url):
    for _ in range(2):
        async with start(sqlite_url) as client:
            assert (await client.get("/readyz")).status_code == 200
