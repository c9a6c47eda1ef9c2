import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import Column, Interval, MetaData, Table

from app.database.columns import Base
from app.database.engines import sqlite_path
from app.transfer.columns import LEFT_BEHIND, moving_tables


def test_every_table_of_a_migrated_file_moves_or_is_left_behind_for_a_reason(sqlite_url):
    with closing(sqlite3.connect(sqlite_path(sqlite_url))) as connection:
        made = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    moving = {table.name for table in moving_tables(Base.metadata)}
    assert moving | LEFT_BEHIND.keys() == made - {"alembic_version"}
    assert not moving & LEFT_BEHIND.keys()


def test_every_column_of_a_migrated_file_moves(sqlite_url):
    with closing(sqlite3.connect(sqlite_path(sqlite_url))) as connection:
        for table in moving_tables(Base.metadata):
            made = [row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")]
            assert set(table.columns) == set(made), table.name


def test_a_column_of_a_type_that_nobody_has_thought_of_is_refused():
    metadata = MetaData()
    Table("late", metadata, Column("wait", Interval, primary_key=True))
    with pytest.raises(TypeError, match=r"how do values of late\.wait move"):
        moving_tables(metadata)
