"""Evaluations on the page: scores, pictures and every question of a report; models compared."""
