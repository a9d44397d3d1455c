"""What an experiment will cost, from its params, before anything is spent."""
