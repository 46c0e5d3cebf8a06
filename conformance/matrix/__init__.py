"""The matrix: path by feature by version, made from records, with a reason for whatever does not pass."""

from conformance.matrix.cells import Cell, Matrix, Row, State, matrix
from conformance.matrix.columns import Column, of_records
from conformance.matrix.shown import FORMATS

__all__ = ["FORMATS", "Cell", "Column", "Matrix", "Row", "State", "matrix", "of_records"]
