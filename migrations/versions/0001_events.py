"""The inbox.

Safe beside the previous release because there is none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    instant = sa.DateTime(timezone=True)
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("received_at", instant, nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("type", sa.String()),
        sa.Column("reference", sa.String()),
        sa.Column("order_version", sa.BigInteger()),
        sa.Column("order_modified", instant),
        sa.Column("notification_id", sa.String()),
        sa.Column("api_version", sa.String()),
        sa.Column("shape", sa.String()),
        sa.Column("headers", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("body_bytes", sa.BigInteger(), nullable=False),
        sa.Column("dedup_key", sa.LargeBinary(), nullable=False),
        sa.Column("duplicates", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_duplicate_at", instant),
        sa.Column("released_at", instant),
        sa.CheckConstraint("status IN ('accepted', 'quarantined')", name=op.f("ck_events_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("uq_events_dedup_key", "events", ["dedup_key"], unique=True)
    has_reference, quarantined = sa.text("reference IS NOT NULL"), sa.text("status = 'quarantined'")
    op.create_index(
        "ix_events_reference_id",
        "events",
        ["reference", "id"],
        postgresql_where=has_reference,
        sqlite_where=has_reference,
    )
    op.create_index("ix_events_quarantined", "events", ["id"], postgresql_where=quarantined, sqlite_where=quarantined)
    if op.get_bind().dialect.name == "postgresql":
        # Takes half the CPU of the default for bodies of some kilobytes. Some servers are built without it.
        lz4 = "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
        if op.get_bind().scalar(sa.text(lz4)):
            op.execute("ALTER TABLE events ALTER COLUMN body SET COMPRESSION lz4")


def downgrade() -> None:
    op.drop_table("events")
