"""Reward models and scorers: see `training.train_reward_model`, `model.token_scores` and `scorers.build_scorer`."""
