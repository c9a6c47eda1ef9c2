"""What each attempt was: delivered, refused, gone, unreachable, timed out or lost.

Safe beside the previous release, which leaves the column empty: what is empty is derived from the other columns when it
is read. Both databases add an empty column in no time, however many attempts there are. An answer that the previous
release records late for an attempt which this release took for lost stays `lost` here; its status is right.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("result", sa.String()))


def downgrade() -> None:
    op.drop_column("attempts", "result")
