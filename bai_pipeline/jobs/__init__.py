"""Process entry points: one module a family of jobs, imported only when such a job runs."""
