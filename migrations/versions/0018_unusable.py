"""Destinations keep why a worker cannot use their settings.

Safe beside the previous release, which neither reads nor writes the column.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("destinations", sa.Column("unusable_reason", sa.String()))


def downgrade() -> None:
    op.drop_column("destinations", "unusable_reason")
