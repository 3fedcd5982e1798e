"""What Chinese Llamas are trained with: models, data sets, tools, their licenses and faults, and first recipes."""
