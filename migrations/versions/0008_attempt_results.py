"""The result of each attempt: delivered, refused, gone, unreachable, timed out or lost.

Safe beside the previous release, which leaves the column empty; an empty result is derived from the other columns when
it is read. Both databases add an empty column at once, however many attempts there are. If this release records an
attempt as lost and the previous release then records its late answer, the result stays `lost`; the status is right.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("result", sa.String()))


def downgrade() -> None:
    op.drop_column("attempts", "result")
