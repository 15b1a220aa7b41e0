"""`python -m bai_pipeline.cli`: the same as `bai`."""

from bai_pipeline.cli.entry import main

main()
