"""`python -m jaxcnn` is the command `jaxcnn`."""

from .cli import main

if __name__ == "__main__":
    main()
