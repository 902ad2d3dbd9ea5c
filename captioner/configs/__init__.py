"""Training configs, and parts built of their sections; what no part may be made of is refused by name.

`reading.py` reads files and arguments, `parts.py` sees that only parts are made, and makes them, `faults.py` says what
is wrong with a config that a parser has refused.
"""

from captioner.configs.parts import instantiate, require_parts
from captioner.configs.reading import (
    PARSER_MODE,
    data_arguments,
    present_argument,
    read_config,
    register_parser_mode,
)

__all__ = [
    "PARSER_MODE",
    "data_arguments",
    "instantiate",
    "present_argument",
    "read_config",
    "register_parser_mode",
    "require_parts",
]
