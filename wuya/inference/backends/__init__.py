"""Engines behind one interface: fake, in this process, in a process of its own, or somebody else's endpoint."""
