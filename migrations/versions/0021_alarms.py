"""Alarms, and what is told of them.

Safe beside the previous release, which neither reads nor writes the tables.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

INSTANT = sa.DateTime(timezone=True)
ID = sa.Uuid().with_variant(sa.LargeBinary(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "alarms",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("command", sa.String(), nullable=False),
        sa.Column("since", INSTANT),
        sa.Column("example", sa.String()),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("told_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarms")),
    )
    op.create_index("ix_alarms_ended_at", "alarms", ["ended_at"])
    op.create_table(
        "alarm_notices",
        sa.Column("id", ID, nullable=False),
        sa.Column("alarm_id", ID, nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("made_at", INSTANT, nullable=False),
        sa.Column("due_at", INSTANT),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("told_at", INSTANT),
        sa.Column("error", sa.String()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alarm_notices")),
    )
    due = sa.text("due_at IS NOT NULL")
    op.create_index(
        "ix_alarm_notices_due_at", "alarm_notices", ["channel", "id"], postgresql_where=due, sqlite_where=due
    )
    op.create_index("ix_alarm_notices_alarm_id", "alarm_notices", ["alarm_id"])


def downgrade() -> None:
    op.drop_table("alarm_notices")
    op.drop_table("alarms")
