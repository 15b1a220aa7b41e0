"""The embedded world: procedural tasks, their tokenizer, a tiny OLMoE and preference pairs.

Nothing in it comes from outside: every table is drawn from a seed. Import from its modules; those that make data
(`tasks`, `documents`, `world_tables`) do not import torch.
"""
