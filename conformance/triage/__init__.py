"""Regression triage: from a red case to what is wrong, the smallest case that shows it, and the commit that made it.

Arrows point one way: this package knows the judge, the budget and the reference; none of them knows it.
"""
