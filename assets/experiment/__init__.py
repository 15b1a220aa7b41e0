"""`make study`: the small-scale experiment, all settings over several chains, and what it shows."""
