"""Settings of models and trainings that take a moment."""

from bai_pipeline.settings import ModelSettings, TrainingSettings

MODEL = ModelSettings(
    num_hidden_layers=2,
    hidden_size=16,
    num_attention_heads=2,
    num_experts=4,
    num_experts_per_tok=2,
    intermediate_size=16,
    max_position_embeddings=64,
)
TRAINING = TrainingSettings(
    steps=8,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=2,
    weight_decay=0.01,
    adam_beta2=0.98,
    max_grad_norm=1.0,
    aux_loss_coef=0.01,
    max_length=16,
)
