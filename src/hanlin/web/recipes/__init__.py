"""Recipes on the page: a form over the settings, the YAML that it writes, the plan and what it will need."""
