"""Create the table of orders."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("cart", models.CharField(max_length=100)),
                ("revision", models.CharField(max_length=100, unique=True)),
                ("items", models.JSONField()),
            ],
        ),
    ]
