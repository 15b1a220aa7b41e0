"""`python -m assets.demo`: the whole study, shown in one terminal; what `make demo` runs."""
