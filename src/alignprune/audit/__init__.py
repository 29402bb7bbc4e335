"""The label report: which labels are probably wrong, out of the training itself.

`table` has a row a training sample, from a pruner, its state or a finished run; `summary` says what holds of all of
them; `page` shows the suspects, and `decisions` reads what people decided there.
"""

from __future__ import annotations

from alignprune.audit.facts import Facts, facts
from alignprune.audit.judgement import Judgement, judge
from alignprune.audit.summary import Accuracy, summary
from alignprune.audit.table import ISSUE, table

__all__ = ["ISSUE", "Accuracy", "Facts", "Judgement", "facts", "judge", "summary", "table"]
