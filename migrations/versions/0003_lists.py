"""Indexes for the lists of the API.

Safe beside the previous release, which works with and without them. While they are made, new events wait: about a
second for each million stored events. A request that waits too long is answered 503 and sent again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INDEXES = {
    "ix_events_type_id": ("events", ["type", "id"], "type IS NOT NULL"),
    "ix_deliveries_destination": ("deliveries", ["destination", "id"], None),
    "ix_deliveries_dropped": ("deliveries", ["id"], "status = 'dropped'"),
}


def upgrade() -> None:
    for name, (table, columns, where) in INDEXES.items():
        condition = sa.text(where) if where else None
        op.create_index(name, table, columns, postgresql_where=condition, sqlite_where=condition)


def downgrade() -> None:
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table)
