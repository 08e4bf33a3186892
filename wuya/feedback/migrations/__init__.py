"""Alembic migrations of the feedback database; `wuya.feedback.database.upgrade` runs them when a store is opened."""
