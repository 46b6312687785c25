from sumsheet.errors import FormulaError
from sumsheet.evaluate import calculate, evaluate
from sumsheet.parser import parse
from sumsheet.sheet import Sheet
from sumsheet.writer import write

__all__ = ["FormulaError", "Sheet", "calculate", "evaluate", "parse", "write"]
