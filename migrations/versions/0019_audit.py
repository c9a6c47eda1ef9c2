"""The audit, and what an erasure leaves of an event: when, and the hash of its body.

The tables refuse by triggers what must not happen to them: a change of the audit, and of what arrived with an event.
Only retention deletes rows of the audit, up to a checkpoint, and only an erasure takes the body of an event away.

Safe beside the previous release, which neither writes the new tables nor changes what arrived. It delivers no erased
event as long as nothing is erased before its workers have ended. Events wait for a moment while two columns without a
default, and a trigger, are added to their table.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True)
ID = sa.Uuid().with_variant(sa.LargeBinary(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("position", POSITION, nullable=False, autoincrement=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("address", sa.String()),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("target", sa.String()),
        sa.Column("event_id", ID),
        sa.Column("reference", sa.String()),
        sa.Column("reason", sa.String()),
        sa.Column("request_id", sa.String()),
        sa.Column("details", sa.String()),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    for name, column in (("ix_audit_event", "event_id"), ("ix_audit_reference", "reference")):
        known = sa.text(f"{column} IS NOT NULL")
        op.create_index(name, "audit", [column, "position"], postgresql_where=known, sqlite_where=known)
    op.create_table(
        "audit_checkpoints",
        sa.Column("position", POSITION, nullable=False, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_audit_checkpoints")),
    )
    op.add_column("events", sa.Column("erased_at", INSTANT))
    op.add_column("events", sa.Column("body_sha256", sa.LargeBinary()))
    for statement in TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    for statement in NO_TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)
    op.drop_column("events", "body_sha256")
    op.drop_column("events", "erased_at")
    op.drop_table("audit_checkpoints")
    op.drop_table("audit")


ARRIVED = "id, received_at, client, headers, body, body_bytes"
"""What nobody changes. A trigger on these columns costs nothing when others are changed."""

NOT_ERASED = "OLD.erased_at IS NOT NULL OR NEW.erased_at IS NULL OR length(NEW.body) > 0"
OTHERS = " OR ".join(f"NEW.{name} <> OLD.{name}" for name in ("id", "received_at", "client", "body_bytes"))
KEPT = f"{NOT_ERASED} OR {OTHERS}"

TRIGGERS = {
    "postgresql": [
        """
        CREATE FUNCTION priohook_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'priohook: % of % is refused', TG_OP, TG_TABLE_NAME;
        END $$
        """,
        """
        CREATE FUNCTION priohook_forget() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF OLD.position > coalesce((SELECT max(position) FROM audit_checkpoints), 0) THEN
                RAISE EXCEPTION 'priohook: DELETE of audit is refused';
            END IF;
            RETURN OLD;
        END $$
        """,
        f"""
        CREATE TRIGGER events_kept BEFORE UPDATE OF {ARRIVED} ON events FOR EACH ROW
        WHEN ({KEPT}) EXECUTE FUNCTION priohook_refuse()
        """,
        "CREATE TRIGGER audit_kept BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION priohook_refuse()",
        "CREATE TRIGGER audit_forgotten BEFORE DELETE ON audit FOR EACH ROW EXECUTE FUNCTION priohook_forget()",
        "CREATE TRIGGER audit_emptied BEFORE TRUNCATE ON audit EXECUTE FUNCTION priohook_refuse()",
        """
        CREATE TRIGGER audit_checkpoints_kept BEFORE UPDATE OR DELETE ON audit_checkpoints FOR EACH ROW
        EXECUTE FUNCTION priohook_refuse()
        """,
        """
        CREATE TRIGGER audit_checkpoints_emptied BEFORE TRUNCATE ON audit_checkpoints
        EXECUTE FUNCTION priohook_refuse()
        """,
    ],
    "sqlite": [
        f"""
        CREATE TRIGGER events_kept BEFORE UPDATE OF {ARRIVED} ON events WHEN {KEPT}
        BEGIN SELECT RAISE(ABORT, 'priohook: UPDATE of events is refused'); END
        """,
        """
        CREATE TRIGGER audit_kept BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'priohook: UPDATE of audit is refused'); END
        """,
        """
        CREATE TRIGGER audit_forgotten BEFORE DELETE ON audit
        WHEN OLD.position > coalesce((SELECT max(position) FROM audit_checkpoints), 0)
        BEGIN SELECT RAISE(ABORT, 'priohook: DELETE of audit is refused'); END
        """,
        """
        CREATE TRIGGER audit_checkpoints_kept BEFORE UPDATE ON audit_checkpoints
        BEGIN SELECT RAISE(ABORT, 'priohook: UPDATE of audit_checkpoints is refused'); END
        """,
        """
        CREATE TRIGGER audit_checkpoints_forgotten BEFORE DELETE ON audit_checkpoints
        BEGIN SELECT RAISE(ABORT, 'priohook: DELETE of audit_checkpoints is refused'); END
        """,
    ],
}
NO_TRIGGERS = {
    "postgresql": [
        "DROP TRIGGER events_kept ON events",
        "DROP TRIGGER audit_checkpoints_emptied ON audit_checkpoints",
        "DROP TRIGGER audit_checkpoints_kept ON audit_checkpoints",
        "DROP TRIGGER audit_emptied ON audit",
        "DROP TRIGGER audit_forgotten ON audit",
        "DROP TRIGGER audit_kept ON audit",
        "DROP FUNCTION priohook_forget",
        "DROP FUNCTION priohook_refuse",
    ],
    "sqlite": [
        "DROP TRIGGER events_kept",
        "DROP TRIGGER audit_checkpoints_forgotten",
        "DROP TRIGGER audit_checkpoints_kept",
        "DROP TRIGGER audit_forgotten",
        "DROP TRIGGER audit_kept",
    ],
}
