"""Scaling curves from the ledger: fits, intervals, verdicts and the page. Reads files only and imports no jax.

`ledger` collects finished runs into one table, `analysis` turns it into numbers per task, `report` writes the page.
`forms`, `fit`, `uncertainty`, `selection`, `grid` and `verdict` are the statistics and know nothing of mice.
"""
