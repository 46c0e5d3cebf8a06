"""Mutation analysis: which small defects, planted in AITER's own kernels, a tier of cases detects.

A mutant is a kernel module with one change. Its text lives in the memory of the child that judges it; AITER's files are
only read. The operators are our own: the kept libraries (cosmic-ray, mutmut) know none of the domain (strides, masks,
the rescaling of a softmax) and start a process a mutant, where importing torch, Triton and AITER takes longer than most
kills.
"""
