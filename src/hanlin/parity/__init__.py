"""Every program reads a chat template alike: the check and its backends."""
