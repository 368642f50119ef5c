"""Prints the licences of the crates that are compiled into the module and ngx-wsgi-ctl."""

import json
import subprocess
from pathlib import Path


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, capture_output=True, text=True).stdout


def linked():
    """Returns name and version of each crate whose code is in the binaries."""
    host = next(line.split()[1] for line in cargo("-vV").splitlines() if line.startswith("host:"))
    tree = cargo("tree", "--target", host, "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}")
    # The first is this package.
    return {tuple(line.split()[:2]) for line in tree.splitlines()[1:] if line}


def main():
    names = linked()
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    texts = {}
    print("These Rust crates are compiled into the module and ngx-wsgi-ctl:\n")
    for package in sorted(packages, key=lambda package: package["name"]):
        title = f"{package['name']} {package['version']}"
        if (package["name"], "v" + package["version"]) not in names:
            continue
        print(f"{title}: {package['license']}")
        for file in sorted(Path(package["manifest_path"]).parent.glob("*")):
            if file.is_file() and file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE")):
                texts.setdefault(file.read_text(encoding="utf-8").strip(), []).append(f"{title} ({file.name})")
    print("Rust's standard library: MIT OR Apache-2.0")
    for text, titles in texts.items():
        print(f"\n{'-' * 80}\n{', '.join(titles)}\n\n{text}")


if __name__ == "__main__":
    main()
