"""What a data stage did, for people."""
