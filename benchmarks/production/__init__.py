"""Dagster as a server runs it: PostgreSQL, a code server, the daemon and the webserver, on loopback."""
