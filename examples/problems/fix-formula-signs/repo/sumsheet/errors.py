class FormulaError(Exception):
    """The formula cannot be read or calculated."""
