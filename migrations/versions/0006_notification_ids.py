"""An index that finds a notification by its id.

Safe beside the previous release, which works with and without it. While it is made, new events wait: about a second for
each million stored events. A request that waits too long is answered 503 and sent again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    condition = sa.text("notification_id IS NOT NULL")
    op.create_index(
        "ix_events_notification_id",
        "events",
        ["notification_id", "id"],
        postgresql_where=condition,
        sqlite_where=condition,
    )


def downgrade() -> None:
    op.drop_index("ix_events_notification_id", "events")
