"""Every error that bai_pipeline raises on purpose.

Each is a `BaiPipelineError` and also a ValueError (the input is wrong) or a RuntimeError (the world is).
A message says what was expected, what was found, where (file, tensor or field), and what was not written.
"""


class BaiPipelineError(Exception):
    """Base class of all errors of this package."""


class StudyError(BaiPipelineError, ValueError):
    """The study file is not valid; the message lists every fault with its line."""


class ComputeError(BaiPipelineError, ValueError):
    """The compute file is not valid, or names a cluster that is not configured."""


class DataError(BaiPipelineError, ValueError):
    """A table (prompts, SFT, preferences, metrics, scores) breaks its schema."""


class CheckpointError(BaiPipelineError, ValueError):
    """A checkpoint directory is missing a part, malformed or damaged."""


class FitError(CheckpointError):
    """Checkpoints that were to be combined differ in names, shapes, dtypes, config or tokenizer."""


class RecipeError(BaiPipelineError, ValueError):
    """A merge recipe is not valid: unknown model, weights that do not sum to one, alpha out of range."""


class RewardError(BaiPipelineError, ValueError):
    """A reward cannot be computed: unknown kind, foreign tokenizer, missing answer."""


class EvaluationError(BaiPipelineError, RuntimeError):
    """A benchmark could not be evaluated."""


class TrainingError(BaiPipelineError, RuntimeError):
    """Training cannot go on: non-finite loss, state that does not match its digest."""


class TrainingInterrupted(BaiPipelineError, RuntimeError):
    """Training was told to end (SIGTERM) and wrote a checkpoint: started again, it goes on from there."""


class StoreError(BaiPipelineError, RuntimeError):
    """The store cannot give or take an artefact: absent, damaged or incomplete."""


class StoreUnavailable(StoreError):
    """Object storage cannot be asked now, or another machine has gone on with the job: trying again may help."""


class JobError(BaiPipelineError, RuntimeError):
    """A job process failed; the message ends with the tail of its log."""
