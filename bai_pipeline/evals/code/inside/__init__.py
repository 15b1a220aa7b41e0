"""What runs inside a sandbox: the two processes that grade a program, and what they share.

Standard library only: the sandbox holds this package, numpy and Python, and nothing else of the environment.
"""
