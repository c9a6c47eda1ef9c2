"""The order in which events are stored, which the stream of events resumes by.

On PostgreSQL a sequence numbers the rows of `events`. SQLite has such a number already: the rowid of the row, so that
the column stays empty there. Stored events get no number.

Safe beside the previous release, which neither reads nor writes the column: its events are numbered too.

While the index is made, new events wait: about a second for each million stored events.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.add_column("events", sa.Column("position", sa.BigInteger()))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE events_position OWNED BY events.position")
        op.execute("ALTER TABLE events ALTER COLUMN position SET DEFAULT nextval('events_position')")
    condition = sa.text("position IS NOT NULL")
    op.create_index("ix_events_position", "events", ["position"], postgresql_where=condition, sqlite_where=condition)


def downgrade() -> None:
    op.drop_index("ix_events_position", "events")
    op.drop_column("events", "position")
