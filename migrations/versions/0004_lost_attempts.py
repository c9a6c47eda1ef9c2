"""How many attempts in a row were lost because their process ended.

Safe beside the previous release: its INSERTs leave the column out and get the default, and it reads and writes the
other columns by name. Adding a column with a constant default changes only the catalogue: no row is rewritten.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("lost", sa.Integer(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    op.drop_column("deliveries", "lost")
