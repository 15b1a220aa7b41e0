"""Pretraining and supervised fine-tuning on transformers' Trainer: see `training.pretrain` and `training.finetune`."""
