"""How things run: processes, devices, state, the loop driver, logs. Nothing here knows a model."""
