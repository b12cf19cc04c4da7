"""`python -m motia_redis` is the `motia-redis` command."""

from motia_redis._cli.main import main

if __name__ == "__main__":
    main(prog_name="motia-redis")
