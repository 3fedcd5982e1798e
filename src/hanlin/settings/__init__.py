"""Every setting of every stage kind: one frozen pydantic class per kind, and nowhere else a default.

`base` holds how a setting is declared; the other files hold the kinds of the room they are named after.
"""
