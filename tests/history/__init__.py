"""A check like Jepsen's: processes record what they asked and were told; afterwards all of it must fit one order of changes."""
