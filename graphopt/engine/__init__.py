"""The driver, passes, pipelines and the journal."""
