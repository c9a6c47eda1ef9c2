"""Runs of `reconcile` count the orders that are not fetched again.

Safe beside the previous release, which neither reads nor writes these columns.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    for name in ("erased", "expired"):
        op.add_column("reconciliations", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    for name in ("expired", "erased"):
        op.drop_column("reconciliations", name)
