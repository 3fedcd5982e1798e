"""Programs that render a chat, behind one interface."""
