"""Keys of events that were deleted for their age, the last backup, and an earlier vacuum of what retention deletes.

Safe beside the previous release, which knows neither table: it stores a copy of a deleted event as a new event. Nothing
is deleted before an operator sets `retention`. PostgreSQL changes the parameters of a table without waiting for
transactions that read or write it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

DELETED_FROM = ("events", "deliveries", "attempts")
SHARE = 0.05
"""Of a table's rows. By default PostgreSQL waits until a fifth of them are dead, at 100 million for days."""


def upgrade() -> None:
    instant = sa.DateTime(timezone=True)
    an_id = sa.Uuid().with_variant(sa.LargeBinary(), "sqlite")
    op.create_table(
        "deleted_events",
        sa.Column("dedup_key", sa.LargeBinary(), nullable=False),
        sa.Column("event_id", an_id, nullable=False),
        sa.Column("deleted_at", instant, nullable=False),
        sa.Column("duplicates", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_duplicate_at", instant),
        sa.PrimaryKeyConstraint("dedup_key", name=op.f("pk_deleted_events")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_deleted_events_deleted_at", "deleted_events", ["deleted_at"])
    op.create_table(
        "backups",
        sa.Column("finished_at", instant, nullable=False),
        sa.Column("file", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("newest_event_id", an_id),
        sa.PrimaryKeyConstraint("finished_at", name=op.f("pk_backups")),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in DELETED_FROM:
            op.execute(
                f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = {SHARE}, "
                f"toast.autovacuum_vacuum_scale_factor = {SHARE})"
            )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in DELETED_FROM:
            op.execute(
                f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor, toast.autovacuum_vacuum_scale_factor)"
            )
    op.drop_table("backups")
    op.drop_table("deleted_events")
