"""The name under which an event was announced, beside its type, and an index that finds it.

Safe beside the previous release, which neither reads nor writes the column. Its workers do not match event names, so
stop them before you start this release's receivers. Stored events keep their types, and have no name beside them.

While the index is made, new events wait: about a second for each million stored events.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    condition = sa.text("event_name IS NOT NULL")
    op.add_column("events", sa.Column("event_name", sa.String()))
    op.create_index(
        "ix_events_event_name_id",
        "events",
        ["event_name", "id"],
        postgresql_where=condition,
        sqlite_where=condition,
    )


def downgrade() -> None:
    op.drop_index("ix_events_event_name_id", "events")
    op.drop_column("events", "event_name")
