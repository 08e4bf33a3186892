"""Limits that several web processes share: token buckets, and tokens reserved by requests that run."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ID = sa.String(200)


def upgrade() -> None:
    op.create_table(
        "rate_buckets",
        sa.Column("name", sa.String(300), primary_key=True),
        sa.Column("level", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False, index=True),
    )
    op.create_table(
        "token_reservations",
        sa.Column("id", ID, primary_key=True),
        sa.Column("api_key_id", ID, sa.ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("token_reservations")
    op.drop_table("rate_buckets")
