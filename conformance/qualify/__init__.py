"""Qualifying versions of AITER: each runs in a process of its own, what is known is not run again, one table of all."""
