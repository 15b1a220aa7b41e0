"""The Dagster graph: one file a stage, their checks, jobs and schedule; `assets.definitions` composes them."""
