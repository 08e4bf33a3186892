"""What may not be asked or answered here: rules, a queue of what they found and of what readers reported."""
