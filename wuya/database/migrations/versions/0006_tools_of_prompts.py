"""Prompts keep the functions that the assistant may call."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("prompts", sa.Column("tools", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("prompts", "tools")
