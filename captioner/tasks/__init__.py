"""Tasks: how a model is trained and validated, with Lightning."""
