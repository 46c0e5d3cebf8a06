"""A bundle for an issue of AITER's: the call that fails, its tensors, and a script that needs no more than AITER."""
