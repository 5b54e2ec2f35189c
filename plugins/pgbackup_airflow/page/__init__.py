"""The Recovery page: how recovery stands, a moment to pick, its plan, and the run that carries it out."""
