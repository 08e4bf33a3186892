"""Runs migrations on the connection that `wuya.database.connection.upgrade` hands over, inside its transaction."""

from alembic import context

from wuya.database.labeling_tables import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=connection.dialect.name == "sqlite"
)
with context.begin_transaction():
    context.run_migrations()
