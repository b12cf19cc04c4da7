"""What motia-redis costs and carries, measured. Not part of the wheel; see README.md beside this file."""
