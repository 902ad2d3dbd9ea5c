"""Tasks: a folder for each problem, with how a model is trained on it and the data that it is trained on."""
