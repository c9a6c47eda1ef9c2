"""PostgreSQL keeps bodies without pglz: with lz4 if the server has it, otherwise uncompressed.

pglz costs PostgreSQL as much time for an order of 7 KB as all the rest of its row. Uncompressed, that order takes about
four times the space. A row that fits into a page keeps its body: the pieces of the TOAST table cost more to write.

Safe beside the previous release: only the catalogue changes, and a body is read the same however it is stored. Rows
that are stored already stay as they are.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

HAS_LZ4 = "SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"

LARGEST_TARGET = 8160  # bytes; PostgreSQL's own bound for pages of 8 KiB


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    if op.get_bind().scalar(sa.text(HAS_LZ4)):
        op.execute("ALTER TABLE events ALTER COLUMN body SET COMPRESSION lz4")
    else:
        op.execute("ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL")
        op.execute(f"ALTER TABLE events SET (toast_tuple_target = {LARGEST_TARGET})")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE events ALTER COLUMN body SET STORAGE EXTENDED")
        op.execute("ALTER TABLE events RESET (toast_tuple_target)")
