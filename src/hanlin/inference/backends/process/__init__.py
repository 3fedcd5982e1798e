"""Any engine with a scheduler in a process of its own: the parent, the child, and their messages."""
