"""People in the database. Queries only; who may do what is in `auth`."""

from sqlalchemy import Connection, insert, select

from wuya.feedback.tables import User, uuid7


def ensure_single_user(connection: Connection, name: str) -> str:
    """The id of the laptop's only user, made on the first start."""
    found = connection.execute(select(User.id).where(User.display_name == name)).scalar()
    if found is None:
        found = uuid7()
        connection.execute(insert(User).values(id=found, display_name=name, role="admin"))
    return str(found)
