"""The command, as `python -m alma_pipeline` and `alma-pipeline`: nothing is imported from the working folder."""

import sys


def main() -> int:
    """Run the command line; the exit code."""
    from alma_pipeline import start

    start.set_import_path()
    from alma_pipeline.cli.main import main as run

    return run()


if __name__ == "__main__":
    # `python -m` puts the working folder first, and a user's random.py there would be imported for Python's own.
    if not sys.flags.safe_path:
        del sys.path[0]
    sys.exit(main())
