"""Every variant of a config trained under the same budget, and one table of them.

A config `NAME.yaml` is the first variant; each file in the folder `NAME/` beside it is another, and says what it
changes. A variant's label is its first line, a comment. What is done already is not done again, and a training that
was cut off goes on where it was.
"""

from captioner.comparison.results import Result
from captioner.comparison.table import table
from captioner.comparison.variants import Variant, find_variants

__all__ = ["Result", "Variant", "find_variants", "table"]
