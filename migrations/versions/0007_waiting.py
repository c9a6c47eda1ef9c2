"""Replaces an index by two: one for the next delivery of each reference, one for the deliveries that wait for it.

Safe beside the previous release, which finds the same rows by other indexes, more slowly if a destination has many.
While the indexes are made, new events wait a moment only, as the indexes hold only pending deliveries.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

PENDING = "status = 'pending' AND reference IS NOT NULL"


def upgrade() -> None:
    _index("ix_deliveries_first", ["destination", "reference"], f"{PENDING} AND due_at IS NOT NULL")
    _index(
        "ix_deliveries_waiting", ["destination", "reference", "replay_id", "event_id"], f"{PENDING} AND due_at IS NULL"
    )
    op.drop_index("ix_deliveries_reference", "deliveries")


def downgrade() -> None:
    _index("ix_deliveries_reference", ["destination", "reference", "event_id"], PENDING)
    op.drop_index("ix_deliveries_waiting", "deliveries")
    op.drop_index("ix_deliveries_first", "deliveries")


def _index(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "deliveries", columns, postgresql_where=condition, sqlite_where=condition)
