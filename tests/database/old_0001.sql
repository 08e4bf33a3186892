-- A database as the first migration made it, with one ranking in it.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE assignments (
	id VARCHAR(200) NOT NULL, 
	task_id VARCHAR(200) NOT NULL, 
	user_id VARCHAR(200), 
	slot INTEGER, 
	state VARCHAR NOT NULL, 
	permutation JSON NOT NULL, 
	schema_version INTEGER NOT NULL, 
	guide_version INTEGER NOT NULL, 
	lease_until DATETIME, 
	draft JSON, 
	draft_rev INTEGER NOT NULL, 
	started_at DATETIME NOT NULL, 
	active_ms INTEGER, 
	submitted_at DATETIME, 
	skip_reason VARCHAR, 
	CONSTRAINT pk_assignments PRIMARY KEY (id), 
	CONSTRAINT fk_assignments_task_id FOREIGN KEY(task_id) REFERENCES label_tasks (id) ON DELETE CASCADE, 
	CONSTRAINT fk_assignments_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE SET NULL, 
	CONSTRAINT uq_assignments_task_id_slot UNIQUE (task_id, slot), 
	CONSTRAINT uq_assignments_task_id_user_id UNIQUE (task_id, user_id)
);
INSERT INTO "assignments" VALUES('01a20318-69d7-7a7a-a996-9f9778f8b3f6','01a20318-69af-752a-8e55-260a5531b22b','01a20318-69c0-7768-aa4f-89944bcc72d8',0,'submitted','[0, 1]',1,1,NULL,NULL,0,'2026-01-02 03:04:05.000000',NULL,'2026-01-02 03:04:05.000000',NULL);
CREATE TABLE demonstrations (
	id VARCHAR(200) NOT NULL, 
	assignment_id VARCHAR(200), 
	prompt_id VARCHAR(200) NOT NULL, 
	completion TEXT NOT NULL, 
	completion_sha256 VARCHAR(64) NOT NULL, 
	author VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_demonstrations PRIMARY KEY (id), 
	CONSTRAINT fk_demonstrations_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignments (id) ON DELETE SET NULL, 
	CONSTRAINT fk_demonstrations_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompts (id) ON DELETE CASCADE, 
	CONSTRAINT uq_demonstrations_prompt_id_author_completion_sha256 UNIQUE (prompt_id, author, completion_sha256)
);
CREATE TABLE exports (
	id VARCHAR(200) NOT NULL, 
	kind VARCHAR NOT NULL, 
	filter JSON NOT NULL, 
	n_rows INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	path VARCHAR NOT NULL, 
	schema_version INTEGER NOT NULL, 
	frozen_at DATETIME NOT NULL, 
	CONSTRAINT pk_exports PRIMARY KEY (id), 
	CONSTRAINT uq_exports_kind_sha256 UNIQUE (kind, sha256)
);
CREATE TABLE label_projects (
	id VARCHAR(200) NOT NULL, 
	name VARCHAR NOT NULL, 
	type VARCHAR NOT NULL, 
	guide_md TEXT NOT NULL, 
	guide_version INTEGER NOT NULL, 
	label_schema JSON NOT NULL, 
	schema_version INTEGER NOT NULL, 
	k_min INTEGER NOT NULL, 
	k_max INTEGER NOT NULL, 
	overlap INTEGER NOT NULL, 
	lease_minutes INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	lang VARCHAR, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_label_projects PRIMARY KEY (id), 
	CONSTRAINT uq_label_projects_name UNIQUE (name)
);
INSERT INTO "label_projects" VALUES('01a20318-6966-753e-ac7d-345f96161219','default','ranking','',1,'{}',1,2,9,1,45,'open',NULL,'2026-11-22 11:51:01.222644');
CREATE TABLE label_tasks (
	id VARCHAR(200) NOT NULL, 
	project_id VARCHAR(200) NOT NULL, 
	prompt_id VARCHAR(200) NOT NULL, 
	type VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	priority INTEGER NOT NULL, 
	target INTEGER NOT NULL, 
	n_active INTEGER NOT NULL, 
	n_submitted INTEGER NOT NULL, 
	n_skipped INTEGER NOT NULL, 
	is_gold BOOLEAN NOT NULL, 
	gold JSON, 
	dedupe_key VARCHAR(64) NOT NULL, 
	shuffle_key DOUBLE NOT NULL, 
	created_at DATETIME NOT NULL, 
	completed_at DATETIME, 
	CONSTRAINT pk_label_tasks PRIMARY KEY (id), 
	CONSTRAINT fk_label_tasks_project_id FOREIGN KEY(project_id) REFERENCES label_projects (id) ON DELETE CASCADE, 
	CONSTRAINT fk_label_tasks_prompt_id FOREIGN KEY(prompt_id) REFERENCES prompts (id) ON DELETE CASCADE, 
	CONSTRAINT uq_label_tasks_dedupe_key UNIQUE (dedupe_key)
);
INSERT INTO "label_tasks" VALUES('01a20318-69af-752a-8e55-260a5531b22b','01a20318-6966-753e-ac7d-345f96161219','p1','ranking','complete',0,0,1,0,1,0,0,NULL,'b815229bee63b94c2acf060a5731f6742cc3eb7213e47d752cfad68d8f85fb97',7.04982194027721442708e-01,'2026-11-22 11:51:01.300879','2026-11-22 11:51:01.354098');
CREATE TABLE metadata_labels (
	id VARCHAR(200) NOT NULL, 
	assignment_id VARCHAR(200) NOT NULL, 
	candidate_id VARCHAR(200), 
	"key" VARCHAR NOT NULL, 
	value_num DOUBLE, 
	value_bool BOOLEAN, 
	value_text VARCHAR, 
	CONSTRAINT pk_metadata_labels PRIMARY KEY (id), 
	CONSTRAINT fk_metadata_labels_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignments (id) ON DELETE CASCADE, 
	CONSTRAINT fk_metadata_labels_candidate_id FOREIGN KEY(candidate_id) REFERENCES task_candidates (id) ON DELETE CASCADE, 
	CONSTRAINT uq_metadata_labels_assignment_id_candidate_id_key UNIQUE (assignment_id, candidate_id, "key")
);
CREATE TABLE model_versions (
	id VARCHAR(200) NOT NULL, 
	name VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	parent_id VARCHAR(200), 
	reward_model_id VARCHAR(200), 
	run_id VARCHAR(200), 
	data_export_id VARCHAR(200), 
	path VARCHAR NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	eval JSON NOT NULL, 
	state VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_model_versions PRIMARY KEY (id), 
	CONSTRAINT fk_model_versions_data_export_id FOREIGN KEY(data_export_id) REFERENCES exports (id) ON DELETE SET NULL, 
	CONSTRAINT fk_model_versions_parent_id FOREIGN KEY(parent_id) REFERENCES model_versions (id) ON DELETE SET NULL, 
	CONSTRAINT fk_model_versions_reward_model_id FOREIGN KEY(reward_model_id) REFERENCES model_versions (id) ON DELETE SET NULL, 
	CONSTRAINT fk_model_versions_run_id FOREIGN KEY(run_id) REFERENCES runs (id) ON DELETE SET NULL, 
	CONSTRAINT uq_model_versions_name UNIQUE (name)
);
INSERT INTO "model_versions" VALUES('01a20318-69ab-7acb-96b9-5c8eb322c39b','runs/sft','',NULL,NULL,NULL,NULL,'runs/sft','',0,'{}','staged','2026-11-22 11:51:01.292994');
CREATE TABLE models (
	alias VARCHAR NOT NULL, 
	active_version_id VARCHAR(200), 
	CONSTRAINT pk_models PRIMARY KEY (alias), 
	CONSTRAINT fk_models_active_version_id FOREIGN KEY(active_version_id) REFERENCES model_versions (id) ON DELETE SET NULL
);
CREATE TABLE prompts (
	id VARCHAR(200) NOT NULL, 
	source VARCHAR NOT NULL, 
	source_user_hash VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	messages JSON NOT NULL, 
	lang VARCHAR, 
	category VARCHAR, 
	split VARCHAR, 
	dedupe_key VARCHAR(64) NOT NULL, 
	state VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_prompts PRIMARY KEY (id)
);
INSERT INTO "prompts" VALUES('p1','test','a','plain','[{"role": "user", "content": "Any news?"}]',NULL,NULL,NULL,'b117b20538b06836afd2b17054e7f47b80ac55203a9a1606f8ed9cd2094b2ca2','approved','2026-11-22 11:51:01.283211');
CREATE TABLE ranking_items (
	ranking_id VARCHAR(200) NOT NULL, 
	candidate_id VARCHAR(200) NOT NULL, 
	rank INTEGER NOT NULL, 
	CONSTRAINT pk_ranking_items PRIMARY KEY (ranking_id, candidate_id), 
	CONSTRAINT fk_ranking_items_candidate_id FOREIGN KEY(candidate_id) REFERENCES task_candidates (id) ON DELETE CASCADE, 
	CONSTRAINT fk_ranking_items_ranking_id FOREIGN KEY(ranking_id) REFERENCES rankings (id) ON DELETE CASCADE
);
INSERT INTO "ranking_items" VALUES('01a20318-69d7-7a85-bf87-7cb33af70aee','01a20318-69af-752a-8e55-260a5531b22c',2);
INSERT INTO "ranking_items" VALUES('01a20318-69d7-7a85-bf87-7cb33af70aee','01a20318-69af-7e2a-ae88-e11dd9c5ae3f',1);
CREATE TABLE rankings (
	id VARCHAR(200) NOT NULL, 
	assignment_id VARCHAR(200) NOT NULL, 
	task_id VARCHAR(200) NOT NULL, 
	cannot_rank BOOLEAN NOT NULL, 
	comment TEXT NOT NULL, 
	source VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_rankings PRIMARY KEY (id), 
	CONSTRAINT fk_rankings_assignment_id FOREIGN KEY(assignment_id) REFERENCES assignments (id) ON DELETE CASCADE, 
	CONSTRAINT fk_rankings_task_id FOREIGN KEY(task_id) REFERENCES label_tasks (id) ON DELETE CASCADE
);
INSERT INTO "rankings" VALUES('01a20318-69d7-7a85-bf87-7cb33af70aee','01a20318-69d7-7a7a-a996-9f9778f8b3f6','01a20318-69af-752a-8e55-260a5531b22b',0,'','ranking','accepted','2026-01-02 03:04:05.000000');
CREATE TABLE runs (
	id VARCHAR(200) NOT NULL, 
	name VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	config JSON NOT NULL, 
	git_sha VARCHAR NOT NULL, 
	seed INTEGER, 
	data_export_id VARCHAR(200), 
	started_at DATETIME NOT NULL, 
	CONSTRAINT pk_runs PRIMARY KEY (id), 
	CONSTRAINT fk_runs_data_export_id FOREIGN KEY(data_export_id) REFERENCES exports (id) ON DELETE SET NULL, 
	CONSTRAINT uq_runs_name UNIQUE (name)
);
CREATE TABLE task_candidates (
	id VARCHAR(200) NOT NULL, 
	task_id VARCHAR(200) NOT NULL, 
	position INTEGER NOT NULL, 
	text TEXT NOT NULL, 
	model_version_id VARCHAR(200), 
	is_human BOOLEAN NOT NULL, 
	finished BOOLEAN NOT NULL, 
	token_ids JSON NOT NULL, 
	sampling JSON NOT NULL, 
	CONSTRAINT pk_task_candidates PRIMARY KEY (id), 
	CONSTRAINT fk_task_candidates_model_version_id FOREIGN KEY(model_version_id) REFERENCES model_versions (id) ON DELETE SET NULL, 
	CONSTRAINT fk_task_candidates_task_id FOREIGN KEY(task_id) REFERENCES label_tasks (id) ON DELETE CASCADE, 
	CONSTRAINT uq_task_candidates_task_id_position UNIQUE (task_id, position)
);
INSERT INTO "task_candidates" VALUES('01a20318-69af-752a-8e55-260a5531b22c','01a20318-69af-752a-8e55-260a5531b22b',0,'None.','01a20318-69ab-7acb-96b9-5c8eb322c39b',0,1,'[1, 2]','{"temperature": 1.0}');
INSERT INTO "task_candidates" VALUES('01a20318-69af-7e2a-ae88-e11dd9c5ae3f','01a20318-69af-752a-8e55-260a5531b22b',1,'It rains.',NULL,1,1,'[]','{"temperature": 1.0}');
CREATE TABLE users (
	id VARCHAR(200) NOT NULL, 
	display_name VARCHAR NOT NULL, 
	email_ci VARCHAR, 
	role VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	is_simulated BOOLEAN NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_users PRIMARY KEY (id), 
	CONSTRAINT uq_users_display_name UNIQUE (display_name), 
	CONSTRAINT uq_users_email_ci UNIQUE (email_ci)
);
INSERT INTO "users" VALUES('01a20318-69c0-7768-aa4f-89944bcc72d8','ann',NULL,'labeler','active',0,'2026-11-22 11:51:01.313386');
CREATE INDEX ix_prompts_dedupe_key ON prompts (dedupe_key);
CREATE INDEX ix_prompts_source_user_hash ON prompts (source_user_hash);
CREATE INDEX ix_label_tasks_project_id ON label_tasks (project_id);
CREATE INDEX ix_label_tasks_prompt_id ON label_tasks (prompt_id);
CREATE INDEX ix_label_tasks_queue ON label_tasks (project_id, state, priority, shuffle_key);
CREATE INDEX ix_runs_data_export_id ON runs (data_export_id);
CREATE INDEX ix_assignments_task_id ON assignments (task_id);
CREATE INDEX ix_assignments_user_id ON assignments (user_id);
CREATE INDEX ix_model_versions_data_export_id ON model_versions (data_export_id);
CREATE INDEX ix_model_versions_parent_id ON model_versions (parent_id);
CREATE INDEX ix_model_versions_reward_model_id ON model_versions (reward_model_id);
CREATE INDEX ix_model_versions_run_id ON model_versions (run_id);
CREATE INDEX ix_demonstrations_assignment_id ON demonstrations (assignment_id);
CREATE INDEX ix_demonstrations_prompt_id ON demonstrations (prompt_id);
CREATE INDEX ix_models_active_version_id ON models (active_version_id);
CREATE UNIQUE INDEX ix_rankings_assignment_id ON rankings (assignment_id);
CREATE INDEX ix_rankings_task_id ON rankings (task_id);
CREATE INDEX ix_task_candidates_model_version_id ON task_candidates (model_version_id);
CREATE INDEX ix_task_candidates_task_id ON task_candidates (task_id);
CREATE INDEX ix_metadata_labels_assignment_id ON metadata_labels (assignment_id);
CREATE INDEX ix_metadata_labels_candidate_id ON metadata_labels (candidate_id);
CREATE UNIQUE INDEX uq_metadata_labels_prompt ON metadata_labels (assignment_id, "key") WHERE candidate_id IS NULL;
CREATE INDEX ix_ranking_items_candidate_id ON ranking_items (candidate_id);
COMMIT;
