"""What a run of `reconcile` was asked for, where it is in a list that is read in parts, and what it found altered.

Safe beside the previous release, which does not use the table. No row is rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("reconciliations", sa.Column("versions", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("reconciliations", sa.Column("deliver", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("reconciliations", sa.Column("created_to", sa.DateTime(timezone=True)))
    op.add_column("reconciliations", sa.Column("altered", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("reconciliations", sa.Column("seconds", sa.Double(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    for column in ("seconds", "altered", "created_to", "deliver", "versions"):
        op.drop_column("reconciliations", column)
