"""Everything that only the paper's experiments need: data, models, recipes, training, tables and figures."""
