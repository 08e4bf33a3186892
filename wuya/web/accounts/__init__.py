"""Who may do what: users, sessions, roles, invitations, and the single user of a laptop."""
