"""Commands beside the recipe's own: one module for each group. `cli` joins them."""
