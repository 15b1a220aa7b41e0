"""What a study needs, in order: which job makes each asset, and what is fresh, stale or absent."""

from bai_pipeline.plan.plan import CODE_VERSIONS, Plan, Status, merge_weight_rows
from bai_pipeline.plan.runs import reaches

__all__ = ["CODE_VERSIONS", "Plan", "Status", "merge_weight_rows", "reaches"]
