"""What a study needs, in order: which job makes each asset, and what is fresh, stale or absent."""

from bai_pipeline.plan.plan import CODE_VERSIONS, Plan, Status, merge_weight_rows
from bai_pipeline.plan.runs import MODEL_DIRECTORIES, reaches, records_of

__all__ = ["CODE_VERSIONS", "MODEL_DIRECTORIES", "Plan", "Status", "merge_weight_rows", "reaches", "records_of"]
