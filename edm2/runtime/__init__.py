"""How stages run: processes, devices, state, the training loop, logs. No module here knows a model."""
