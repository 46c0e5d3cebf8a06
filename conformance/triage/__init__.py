"""From a red case to what is wrong with it: its anatomy, and which mistake would give the same wrong output.

Arrows point one way: this package knows the judge, the budget and the reference; none of them knows it.
"""
