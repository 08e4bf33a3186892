"""People, prompts, tasks, rankings, models, exports."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "exports",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("filter", sa.JSON(), nullable=False),
        sa.Column("n_rows", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("frozen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
        sa.UniqueConstraint("kind", "sha256", name=op.f("uq_exports_kind_sha256")),
    )
    op.create_table(
        "label_projects",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("guide_md", sa.Text(), nullable=False),
        sa.Column("guide_version", sa.Integer(), nullable=False),
        sa.Column("label_schema", sa.JSON(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("k_min", sa.Integer(), nullable=False),
        sa.Column("k_max", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("lease_minutes", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("lang", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_label_projects_name")),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("source_user_hash", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("lang", sa.String(), nullable=True),
        sa.Column("category", sa.String(), nullable=True),
        sa.Column("split", sa.String(), nullable=True),
        sa.Column("dedupe_key", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
    )
    op.create_index(op.f("ix_prompts_dedupe_key"), "prompts", ["dedupe_key"], unique=False)
    op.create_index(op.f("ix_prompts_source_user_hash"), "prompts", ["source_user_hash"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("display_name", sa.String(), nullable=False),
        sa.Column("email_ci", sa.String(), nullable=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("is_simulated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("display_name", name=op.f("uq_users_display_name")),
        sa.UniqueConstraint("email_ci", name=op.f("uq_users_email_ci")),
    )
    op.create_table(
        "label_tasks",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("project_id", sa.String(length=200), nullable=False),
        sa.Column("prompt_id", sa.String(length=200), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("target", sa.Integer(), nullable=False),
        sa.Column("n_active", sa.Integer(), nullable=False),
        sa.Column("n_submitted", sa.Integer(), nullable=False),
        sa.Column("n_skipped", sa.Integer(), nullable=False),
        sa.Column("is_gold", sa.Boolean(), nullable=False),
        sa.Column("gold", sa.JSON(), nullable=True),
        sa.Column("dedupe_key", sa.String(length=64), nullable=False),
        sa.Column("shuffle_key", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["label_projects.id"], name=op.f("fk_label_tasks_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_label_tasks_prompt_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_tasks")),
        sa.UniqueConstraint("dedupe_key", name=op.f("uq_label_tasks_dedupe_key")),
    )
    op.create_index(op.f("ix_label_tasks_project_id"), "label_tasks", ["project_id"], unique=False)
    op.create_index(op.f("ix_label_tasks_prompt_id"), "label_tasks", ["prompt_id"], unique=False)
    op.create_index(
        "ix_label_tasks_queue", "label_tasks", ["project_id", "state", "priority", "shuffle_key"], unique=False
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("git_sha", sa.String(), nullable=False),
        sa.Column("seed", sa.Integer(), nullable=True),
        sa.Column("data_export_id", sa.String(length=200), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["data_export_id"], ["exports.id"], name=op.f("fk_runs_data_export_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("name", name=op.f("uq_runs_name")),
    )
    op.create_index(op.f("ix_runs_data_export_id"), "runs", ["data_export_id"], unique=False)
    op.create_table(
        "assignments",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("task_id", sa.String(length=200), nullable=False),
        sa.Column("user_id", sa.String(length=200), nullable=True),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("permutation", sa.JSON(), nullable=False),
        sa.Column("schema_version", sa.Integer(), nullable=False),
        sa.Column("guide_version", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("draft", sa.JSON(), nullable=True),
        sa.Column("draft_rev", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("active_ms", sa.Integer(), nullable=True),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("skip_reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["task_id"], ["label_tasks.id"], name=op.f("fk_assignments_task_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_assignments_user_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint("task_id", "slot", name=op.f("uq_assignments_task_id_slot")),
        sa.UniqueConstraint("task_id", "user_id", name=op.f("uq_assignments_task_id_user_id")),
    )
    op.create_index(op.f("ix_assignments_task_id"), "assignments", ["task_id"], unique=False)
    op.create_index(op.f("ix_assignments_user_id"), "assignments", ["user_id"], unique=False)
    op.create_table(
        "model_versions",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("parent_id", sa.String(length=200), nullable=True),
        sa.Column("reward_model_id", sa.String(length=200), nullable=True),
        sa.Column("run_id", sa.String(length=200), nullable=True),
        sa.Column("data_export_id", sa.String(length=200), nullable=True),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("eval", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["data_export_id"], ["exports.id"], name=op.f("fk_model_versions_data_export_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["model_versions.id"], name=op.f("fk_model_versions_parent_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["reward_model_id"],
            ["model_versions.id"],
            name=op.f("fk_model_versions_reward_model_id"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_model_versions_run_id"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("name", name=op.f("uq_model_versions_name")),
    )
    op.create_index(op.f("ix_model_versions_data_export_id"), "model_versions", ["data_export_id"], unique=False)
    op.create_index(op.f("ix_model_versions_parent_id"), "model_versions", ["parent_id"], unique=False)
    op.create_index(op.f("ix_model_versions_reward_model_id"), "model_versions", ["reward_model_id"], unique=False)
    op.create_index(op.f("ix_model_versions_run_id"), "model_versions", ["run_id"], unique=False)
    op.create_table(
        "demonstrations",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("assignment_id", sa.String(length=200), nullable=True),
        sa.Column("prompt_id", sa.String(length=200), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("completion_sha256", sa.String(length=64), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignments.id"], name=op.f("fk_demonstrations_assignment_id"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name=op.f("fk_demonstrations_prompt_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_demonstrations")),
        sa.UniqueConstraint(
            "prompt_id",
            "author",
            "completion_sha256",
            name=op.f("uq_demonstrations_prompt_id_author_completion_sha256"),
        ),
    )
    op.create_index(op.f("ix_demonstrations_assignment_id"), "demonstrations", ["assignment_id"], unique=False)
    op.create_index(op.f("ix_demonstrations_prompt_id"), "demonstrations", ["prompt_id"], unique=False)
    op.create_table(
        "models",
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("active_version_id", sa.String(length=200), nullable=True),
        sa.ForeignKeyConstraint(
            ["active_version_id"], ["model_versions.id"], name=op.f("fk_models_active_version_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("alias", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_active_version_id"), "models", ["active_version_id"], unique=False)
    op.create_table(
        "rankings",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("assignment_id", sa.String(length=200), nullable=False),
        sa.Column("task_id", sa.String(length=200), nullable=False),
        sa.Column("cannot_rank", sa.Boolean(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignments.id"], name=op.f("fk_rankings_assignment_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["task_id"], ["label_tasks.id"], name=op.f("fk_rankings_task_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rankings")),
    )
    op.create_index(op.f("ix_rankings_assignment_id"), "rankings", ["assignment_id"], unique=True)
    op.create_index(op.f("ix_rankings_task_id"), "rankings", ["task_id"], unique=False)
    op.create_table(
        "task_candidates",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("task_id", sa.String(length=200), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("model_version_id", sa.String(length=200), nullable=True),
        sa.Column("is_human", sa.Boolean(), nullable=False),
        sa.Column("finished", sa.Boolean(), nullable=False),
        sa.Column("token_ids", sa.JSON(), nullable=False),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_versions.id"],
            name=op.f("fk_task_candidates_model_version_id"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["task_id"], ["label_tasks.id"], name=op.f("fk_task_candidates_task_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_candidates")),
        sa.UniqueConstraint("task_id", "position", name=op.f("uq_task_candidates_task_id_position")),
    )
    op.create_index(op.f("ix_task_candidates_model_version_id"), "task_candidates", ["model_version_id"], unique=False)
    op.create_index(op.f("ix_task_candidates_task_id"), "task_candidates", ["task_id"], unique=False)
    op.create_table(
        "metadata_labels",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("assignment_id", sa.String(length=200), nullable=False),
        sa.Column("candidate_id", sa.String(length=200), nullable=True),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value_num", sa.Double(), nullable=True),
        sa.Column("value_bool", sa.Boolean(), nullable=True),
        sa.Column("value_text", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignments.id"], name=op.f("fk_metadata_labels_assignment_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["task_candidates.id"], name=op.f("fk_metadata_labels_candidate_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metadata_labels")),
        sa.UniqueConstraint(
            "assignment_id", "candidate_id", "key", name=op.f("uq_metadata_labels_assignment_id_candidate_id_key")
        ),
    )
    op.create_index(op.f("ix_metadata_labels_assignment_id"), "metadata_labels", ["assignment_id"], unique=False)
    op.create_index(op.f("ix_metadata_labels_candidate_id"), "metadata_labels", ["candidate_id"], unique=False)
    op.create_index(
        "uq_metadata_labels_prompt",
        "metadata_labels",
        ["assignment_id", "key"],
        unique=True,
        sqlite_where=sa.text("candidate_id IS NULL"),
        postgresql_where=sa.text("candidate_id IS NULL"),
    )
    op.create_table(
        "ranking_items",
        sa.Column("ranking_id", sa.String(length=200), nullable=False),
        sa.Column("candidate_id", sa.String(length=200), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"], ["task_candidates.id"], name=op.f("fk_ranking_items_candidate_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["ranking_id"], ["rankings.id"], name=op.f("fk_ranking_items_ranking_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("ranking_id", "candidate_id", name=op.f("pk_ranking_items")),
    )
    op.create_index(op.f("ix_ranking_items_candidate_id"), "ranking_items", ["candidate_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_ranking_items_candidate_id"), table_name="ranking_items")
    op.drop_table("ranking_items")
    op.drop_index(
        "uq_metadata_labels_prompt",
        table_name="metadata_labels",
        sqlite_where=sa.text("candidate_id IS NULL"),
        postgresql_where=sa.text("candidate_id IS NULL"),
    )
    op.drop_index(op.f("ix_metadata_labels_candidate_id"), table_name="metadata_labels")
    op.drop_index(op.f("ix_metadata_labels_assignment_id"), table_name="metadata_labels")
    op.drop_table("metadata_labels")
    op.drop_index(op.f("ix_task_candidates_task_id"), table_name="task_candidates")
    op.drop_index(op.f("ix_task_candidates_model_version_id"), table_name="task_candidates")
    op.drop_table("task_candidates")
    op.drop_index(op.f("ix_rankings_task_id"), table_name="rankings")
    op.drop_index(op.f("ix_rankings_assignment_id"), table_name="rankings")
    op.drop_table("rankings")
    op.drop_index(op.f("ix_models_active_version_id"), table_name="models")
    op.drop_table("models")
    op.drop_index(op.f("ix_demonstrations_prompt_id"), table_name="demonstrations")
    op.drop_index(op.f("ix_demonstrations_assignment_id"), table_name="demonstrations")
    op.drop_table("demonstrations")
    op.drop_index(op.f("ix_model_versions_run_id"), table_name="model_versions")
    op.drop_index(op.f("ix_model_versions_reward_model_id"), table_name="model_versions")
    op.drop_index(op.f("ix_model_versions_parent_id"), table_name="model_versions")
    op.drop_index(op.f("ix_model_versions_data_export_id"), table_name="model_versions")
    op.drop_table("model_versions")
    op.drop_index(op.f("ix_assignments_user_id"), table_name="assignments")
    op.drop_index(op.f("ix_assignments_task_id"), table_name="assignments")
    op.drop_table("assignments")
    op.drop_index(op.f("ix_runs_data_export_id"), table_name="runs")
    op.drop_table("runs")
    op.drop_index("ix_label_tasks_queue", table_name="label_tasks")
    op.drop_index(op.f("ix_label_tasks_prompt_id"), table_name="label_tasks")
    op.drop_index(op.f("ix_label_tasks_project_id"), table_name="label_tasks")
    op.drop_table("label_tasks")
    op.drop_table("users")
    op.drop_index(op.f("ix_prompts_source_user_hash"), table_name="prompts")
    op.drop_index(op.f("ix_prompts_dedupe_key"), table_name="prompts")
    op.drop_table("prompts")
    op.drop_table("label_projects")
    op.drop_table("exports")
