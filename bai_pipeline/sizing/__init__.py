"""What a study needs, before it is run: parameters, memory of a GPU or a process, disk and days. Imports no torch."""
