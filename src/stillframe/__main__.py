"""`python -m stillframe` is the console script."""

from stillframe.pipeline.cli import main

if __name__ == "__main__":
    main()
