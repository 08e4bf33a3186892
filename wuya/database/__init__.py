"""What people wrote, kept: the tables of labeling and of the service, their migrations, SQLite or PostgreSQL by URL."""
