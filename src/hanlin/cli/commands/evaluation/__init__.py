"""Commands on the results of evaluations."""
