"""Events that were fetched from Prioticket: where an event came from and why, the fetches, and the reconciliations.

Safe beside the previous release, whose receivers store events without the new columns: such an event is `received`. Its
workers do not fetch, so stop them before you set `prioticket.enrich`. No row is rewritten, and the new tables are
empty.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

INSTANT = sa.DateTime(timezone=True)
ID = sa.Uuid().with_variant(sa.LargeBinary(), "sqlite")
COUNTS = ("listed", "known", "thin", "missing", "fetched", "refused", "requests")


def upgrade() -> None:
    op.add_column("events", sa.Column("origin", sa.String(), nullable=False, server_default="received"))
    op.add_column("events", sa.Column("cause", ID))
    op.add_column("events", sa.Column("fetched_for", sa.String()))
    op.create_table(
        "fetches",
        sa.Column("id", ID, nullable=False),
        sa.Column("reference", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False, server_default="due"),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("stale", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("worker", sa.String()),
        sa.Column("ends_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.Column("error", sa.String()),
        sa.Column("snapshot_id", ID),
        sa.CheckConstraint("status IN ('due', 'fetching', 'done', 'refused', 'dead')", name=op.f("ck_fetches_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fetches")),
    )
    _index("uq_fetches_due", ["reference"], "status = 'due'", unique=True)
    _index("ix_fetches_due", ["due_at"], "status = 'due'")
    _index("ix_fetches_fetching", ["reference"], "status = 'fetching'")
    _index("ix_fetches_finished", ["finished_at"], "finished_at IS NOT NULL")
    _index("ix_fetches_snapshot", ["snapshot_id"], "snapshot_id IS NOT NULL")
    op.create_table(
        "fetch_causes",
        sa.Column("event_id", ID, nullable=False),
        sa.Column("fetch_id", ID, nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_fetch_causes")),
    )
    op.create_index("ix_fetch_causes_fetch_id", "fetch_causes", ["fetch_id"])
    op.create_table(
        "fetch_pace",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("next_at", INSTANT),
        sa.Column("refused_at", INSTANT),
        sa.Column("refused_until", INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fetch_pace")),
    )
    op.create_table(
        "reconciliations",
        sa.Column("id", ID, nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("until", INSTANT),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("created_from", INSTANT),
        sa.Column("page", sa.Integer(), nullable=False, server_default=sa.text("1")),
        *(sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0")) for name in COUNTS),
        sa.Column("error", sa.String()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciliations")),
    )
    for statement in TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    for statement in NO_TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)
    for table in ("reconciliations", "fetch_pace", "fetch_causes", "fetches"):
        op.drop_table(table)
    for column in ("fetched_for", "cause", "origin"):
        op.drop_column("events", column)


def _index(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, "fetches", columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


TRIGGERS = {
    "postgresql": [
        """
        CREATE FUNCTION priohook_received_too() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.cause IS NOT NULL
                OR NOT EXISTS (SELECT FROM deliveries WHERE event_id = NEW.id AND replay_id IS NULL)
            THEN
                INSERT INTO undispatched (event_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
            END IF;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER events_received_too AFTER UPDATE OF origin ON events FOR EACH ROW
        WHEN (OLD.origin = 'fetched' AND NEW.origin = 'both') EXECUTE FUNCTION priohook_received_too()
        """,
    ],
    "sqlite": [
        """
        CREATE TRIGGER events_received_too AFTER UPDATE OF origin ON events
        WHEN OLD.origin = 'fetched' AND NEW.origin = 'both' AND (
            NEW.cause IS NOT NULL
            OR NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = NEW.id AND replay_id IS NULL)
        )
        BEGIN INSERT OR IGNORE INTO undispatched (event_id) VALUES (NEW.id); END
        """,
    ],
}
"""A fetched event that is received later may be one for destinations that did not want it while it was only fetched.

If it was fetched for no notification, all have got it, unless it was to be delivered to none. A worker of the previous
release could not dispatch it for the second time: it makes all deliveries of an event, and the index allows one each.
"""

NO_TRIGGERS = {
    "postgresql": ["DROP TRIGGER events_received_too ON events", "DROP FUNCTION priohook_received_too"],
    "sqlite": ["DROP TRIGGER events_received_too"],
}
