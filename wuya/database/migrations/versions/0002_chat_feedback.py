"""What users of the chat say: comparisons and thumbs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "message_feedback",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("message_id", sa.String(length=200), nullable=False),
        sa.Column("prompt_id", sa.String(length=200), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=True),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("better_answer", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_message_feedback_prompt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_message_feedback_user_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message_feedback")),
        sa.UniqueConstraint("message_id", "user_id", name=op.f("uq_message_feedback_message_id_user_id")),
    )
    op.create_index(op.f("ix_message_feedback_prompt_id"), "message_feedback", ["prompt_id"], unique=False)
    op.create_index(op.f("ix_message_feedback_user_id"), "message_feedback", ["user_id"], unique=False)
    op.create_table(
        "comparisons",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("prompt_id", sa.String(length=200), nullable=False),
        sa.Column("a_text", sa.Text(), nullable=False),
        sa.Column("b_text", sa.Text(), nullable=False),
        sa.Column("a_model_version_id", sa.String(length=200), nullable=True),
        sa.Column("b_model_version_id", sa.String(length=200), nullable=True),
        sa.Column("left_is_a", sa.Boolean(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("strength", sa.Integer(), nullable=True),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("group_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=True),
        sa.Column("dedupe_key", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["a_model_version_id"],
            ["model_versions.id"],
            name=op.f("fk_comparisons_a_model_version_id"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["b_model_version_id"],
            ["model_versions.id"],
            name=op.f("fk_comparisons_b_model_version_id"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_comparisons_prompt_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_comparisons_user_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparisons")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_comparisons_dedupe_key")),
    )
    op.create_index(op.f("ix_comparisons_a_model_version_id"), "comparisons", ["a_model_version_id"], unique=False)
    op.create_index(op.f("ix_comparisons_b_model_version_id"), "comparisons", ["b_model_version_id"], unique=False)
    op.create_index(op.f("ix_comparisons_prompt_id"), "comparisons", ["prompt_id"], unique=False)
    op.create_index(op.f("ix_comparisons_user_id"), "comparisons", ["user_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_comparisons_user_id"), table_name="comparisons")
    op.drop_index(op.f("ix_comparisons_prompt_id"), table_name="comparisons")
    op.drop_index(op.f("ix_comparisons_b_model_version_id"), table_name="comparisons")
    op.drop_index(op.f("ix_comparisons_a_model_version_id"), table_name="comparisons")
    op.drop_table("comparisons")
    op.drop_index(op.f("ix_message_feedback_user_id"), table_name="message_feedback")
    op.drop_index(op.f("ix_message_feedback_prompt_id"), table_name="message_feedback")
    op.drop_table("message_feedback")
