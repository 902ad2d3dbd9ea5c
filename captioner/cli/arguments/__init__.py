"""What sub-commands share: arguments, and what is made of them."""
