"""Orders in Django's database; carts, which change often, are in motia-redis."""

from django.db import models


class Order(models.Model):
    cart = models.CharField(max_length=100)
    revision = models.CharField(max_length=100, unique=True)
    items = models.JSONField()

    def __str__(self) -> str:
        return self.cart
