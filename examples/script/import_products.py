"""Import a CSV file into a scope, and print what has changed: `python import_products.py products.csv`."""

import argparse
import csv
import logging
from pathlib import Path

from motia_redis.sync import StateManager

log = logging.getLogger("import_products")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a CSV file with the columns sku, name and price")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    with arguments.file.open(newline="") as file:
        products = {row["sku"]: {"name": row["name"], "price": float(row["price"])} for row in csv.DictReader(file)}
    with StateManager() as state:  # $MOTIA_REDIS_URL
        stored = state.get_many("products", list(products), atomic=False)
        changed = {sku: product for sku, product in products.items() if product != stored.get(sku)}
        state.set_many("products", changed, atomic=False)
        log.info("read %d products", len(products))
        print(f"{len(changed)} of {len(products)} products changed, {state.count('products')} are stored")


if __name__ == "__main__":
    main()
