"""Where an event came from, and what processes say of themselves: `processes`, `refusals`, `client_uses`.

Safe beside the previous release, which neither reads nor writes any of it: what it stores has no address, request id
and trace. Adding columns without a default writes no row.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    for name in ("address", "request_id", "trace"):
        op.add_column("events", sa.Column(name, sa.String()))
    op.create_table(
        "processes",
        sa.Column("id", sa.Uuid().with_variant(sa.LargeBinary(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("settings", sa.String(), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("beat_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("waiting_events", sa.BigInteger()),
        sa.Column("spooled_events", sa.BigInteger()),
        sa.Column("spooled_bytes", sa.BigInteger()),
        sa.Column("log_lines_dropped", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_processes")),
    )
    op.create_index("ix_processes_beat_at", "processes", ["beat_at"])
    op.create_table(
        "refusals",
        sa.Column("minute", INSTANT, nullable=False),
        sa.Column("door", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "door", "status", "reason", "address", "client", name=op.f("pk_refusals")),
    )
    op.create_table(
        "client_uses",
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("succeeded_at", INSTANT),
        sa.Column("refused_at", INSTANT),
        sa.Column("refused_status", sa.Integer()),
        sa.Column("refused_reason", sa.String()),
        sa.Column("refused_address", sa.String()),
        sa.PrimaryKeyConstraint("client", name=op.f("pk_client_uses")),
    )


def downgrade() -> None:
    for table in ("client_uses", "refusals", "processes"):
        op.drop_table(table)
    for name in ("trace", "request_id", "address"):
        op.drop_column("events", name)
