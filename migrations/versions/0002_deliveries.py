"""Deliveries, and the triggers that note each accepted event as one to deliver.

Safe beside the previous release, which neither reads nor writes the new tables. When it stores an event, the triggers
add a row, which cannot fail. Events stored before get no deliveries; a replay delivers them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INSTANT = sa.DateTime(timezone=True)
PENDING = "status = 'pending'"


def upgrade() -> None:
    op.create_table(
        "undispatched",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_undispatched")),
    )
    op.create_table(
        "destinations",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String()),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("paused_at", INSTANT),
        sa.Column("paused_reason", sa.String()),
        sa.Column("failures", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("failing_since", INSTANT),
        sa.Column("probe_at", INSTANT),
        sa.Column("next_at", INSTANT),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destinations")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("reference", sa.String()),
        sa.Column("replay_id", sa.Uuid()),
        sa.Column("status", sa.String(), nullable=False, server_default="pending"),
        sa.Column("due_at", INSTANT),
        sa.Column("claimed_by", sa.String()),
        sa.Column("claimed_at", INSTANT),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("attempts_before", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("finished_at", INSTANT),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'dead', 'dropped')", name=op.f("ck_deliveries_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    _index("uq_deliveries_live", ["event_id", "destination"], "replay_id IS NULL", unique=True)
    _index("uq_deliveries_replay", ["replay_id", "event_id"], "replay_id IS NOT NULL", unique=True)
    _index("ix_deliveries_replay", ["replay_id"], f"{PENDING} AND replay_id IS NOT NULL")
    _index("ix_deliveries_event", ["event_id"], None)
    _index("ix_deliveries_due", ["destination", "due_at"], f"{PENDING} AND replay_id IS NULL AND due_at IS NOT NULL")
    _index(
        "ix_deliveries_due_replay",
        ["destination", "due_at"],
        f"{PENDING} AND replay_id IS NOT NULL AND due_at IS NOT NULL",
    )
    _index("ix_deliveries_reference", ["destination", "reference", "event_id"], f"{PENDING} AND reference IS NOT NULL")
    _index("ix_deliveries_claimed", ["destination", "claimed_by"], "claimed_by IS NOT NULL")
    _index("ix_deliveries_dead", ["destination", "id"], "status = 'dead'")
    op.create_table(
        "attempts",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("duration_ms", sa.Integer()),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.String()),
        sa.Column("answer", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "replays",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("narrowed", sa.JSON(), nullable=False),
        sa.Column("rate", sa.Double(), nullable=False),
        sa.Column("status", sa.String(), nullable=False, server_default="running"),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("made", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("last_event_id", sa.Uuid()),
        sa.Column("next_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.CheckConstraint("status IN ('running', 'paused', 'cancelled', 'done')", name=op.f("ck_replays_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replays")),
    )
    running = sa.text("status = 'running'")
    op.create_index("ix_replays_running", "replays", ["id"], postgresql_where=running, sqlite_where=running)
    op.create_table(
        "replay_events",
        sa.Column("replay_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("replay_id", "event_id", name=op.f("pk_replay_events")),
    )
    for statement in TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    for statement in NO_TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)
    for table in ("replay_events", "replays", "attempts", "deliveries", "destinations", "undispatched"):
        op.drop_table(table)


def _index(name: str, columns: list[str], where: str | None, *, unique: bool = False) -> None:
    condition = sa.text(where) if where else None
    op.create_index(name, "deliveries", columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


TRIGGERS = {
    "postgresql": [
        """
        CREATE FUNCTION priohook_arrived() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO undispatched (event_id) SELECT id FROM arrived WHERE status = 'accepted'
            ON CONFLICT DO NOTHING;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER events_arrived AFTER INSERT ON events REFERENCING NEW TABLE AS arrived
        FOR EACH STATEMENT EXECUTE FUNCTION priohook_arrived()
        """,
        """
        CREATE FUNCTION priohook_released() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO undispatched (event_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER events_released AFTER UPDATE OF status ON events FOR EACH ROW
        WHEN (OLD.status = 'quarantined' AND NEW.status = 'accepted') EXECUTE FUNCTION priohook_released()
        """,
    ],
    "sqlite": [
        """
        CREATE TRIGGER events_arrived AFTER INSERT ON events WHEN NEW.status = 'accepted'
        BEGIN INSERT OR IGNORE INTO undispatched (event_id) VALUES (NEW.id); END
        """,
        """
        CREATE TRIGGER events_released AFTER UPDATE OF status ON events
        WHEN OLD.status = 'quarantined' AND NEW.status = 'accepted'
        BEGIN INSERT OR IGNORE INTO undispatched (event_id) VALUES (NEW.id); END
        """,
    ],
}
NO_TRIGGERS = {
    "postgresql": [
        "DROP TRIGGER events_released ON events",
        "DROP TRIGGER events_arrived ON events",
        "DROP FUNCTION priohook_released",
        "DROP FUNCTION priohook_arrived",
    ],
    "sqlite": ["DROP TRIGGER events_released", "DROP TRIGGER events_arrived"],
}
