"""Alembic migrations of the feedback database; `wuya.database.connection.upgrade` runs them when a store is opened."""
