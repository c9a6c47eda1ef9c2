"""Claims in a table of their own, and first attempts that delivered in the row of their delivery: fewer writes.

Safe on PostgreSQL beside the previous release, all of whose statements still work. It finds the deliveries of an event
by looking through all of them, and shows no first attempt that this release made and that delivered. Its workers do not
see the claims of this release, so stop them before you start this release's. Their own claims this release sees.

PostgreSQL reads the deliveries once to make the new index, and SQLite too. Deliveries wait meanwhile; on SQLite, whose
previous release cannot use the database since migration 0010, new events wait too. No row is rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

INSTANT = sa.DateTime(timezone=True)
OF_REPLAYS = sa.text("replay_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "claims",
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("delivery_id", sa.Uuid().with_variant(sa.LargeBinary(), "sqlite"), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lost", sa.Integer(), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ends_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("destination", "delivery_id", name=op.f("pk_claims")),
        sqlite_with_rowid=False,
    )
    op.add_column("deliveries", sa.Column("first_started_at", INSTANT))
    op.add_column("deliveries", sa.Column("first_duration_ms", sa.Integer()))
    op.add_column("deliveries", sa.Column("first_status", sa.Integer()))
    op.add_column("deliveries", sa.Column("first_answer", sa.LargeBinary()))
    op.drop_index("ix_deliveries_event", "deliveries")
    op.create_index(
        "ix_deliveries_event", "deliveries", ["event_id"], postgresql_where=OF_REPLAYS, sqlite_where=OF_REPLAYS
    )


def downgrade() -> None:
    op.drop_index("ix_deliveries_event", "deliveries")
    op.create_index("ix_deliveries_event", "deliveries", ["event_id"])
    op.execute(
        "INSERT INTO attempts (delivery_id, number, started_at, duration_ms, status, result, answer) "
        "SELECT id, 1, first_started_at, first_duration_ms, first_status, 'delivered', first_answer "
        "FROM deliveries WHERE first_started_at IS NOT NULL ON CONFLICT DO NOTHING"
    )
    for name in ("first_answer", "first_status", "first_duration_ms", "first_started_at"):
        op.drop_column("deliveries", name)
    op.drop_table("claims")
