"""The order in which events are stored, which the stream of events resumes by.

On PostgreSQL a sequence numbers the rows of `events`. SQLite has such a number already: the rowid of the row, so that
the column stays empty there. Stored events get no number.

Safe beside the previous release, which neither reads nor writes the column: its events are numbered too. PostgreSQL
makes the index while events are stored; it waits for transactions that began earlier.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

NUMBERED = sa.text("position IS NOT NULL")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.add_column("events", sa.Column("position", sa.BigInteger()))
        op.create_index("ix_events_position", "events", ["position"], sqlite_where=NUMBERED)
        return
    # This commits before the index is made, so it may be there already if that was interrupted.
    op.execute("ALTER TABLE events ADD COLUMN IF NOT EXISTS position bigint")
    op.execute("CREATE SEQUENCE IF NOT EXISTS events_position OWNED BY events.position")
    op.execute("ALTER TABLE events ALTER COLUMN position SET DEFAULT nextval('events_position')")
    with op.get_context().autocommit_block():
        # An interrupted one is there, and is not valid.
        op.drop_index("ix_events_position", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_events_position", "events", ["position"], postgresql_where=NUMBERED, postgresql_concurrently=True
        )


def downgrade() -> None:
    op.drop_index("ix_events_position", "events")
    op.drop_column("events", "position")
