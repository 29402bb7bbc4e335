"""The label report: one row a training sample, a page to look at the suspects, the decisions that people made there."""
