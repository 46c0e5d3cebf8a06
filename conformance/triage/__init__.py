"""Regression triage: from a red case to what is wrong, the smallest case that shows it, and the commit that made it."""
