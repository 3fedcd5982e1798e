"""Bytes to rows: encodings, containers, tables, lines."""
