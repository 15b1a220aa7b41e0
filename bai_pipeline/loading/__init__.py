"""Loading of Hugging Face models from checkpoints and from recipes. Imports torch and transformers."""

from bai_pipeline.loading.models import LANGUAGE_HEAD, SCORE_HEAD, load_model
from bai_pipeline.loading.tokenizers import load_tokenizer, saved_dtype

__all__ = ["LANGUAGE_HEAD", "SCORE_HEAD", "load_model", "load_tokenizer", "saved_dtype"]
