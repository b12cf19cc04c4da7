"""Test linearizability, as Jepsen does: processes record their calls, and a checker searches for an order that explains them."""
