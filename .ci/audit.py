"""`make audit`: known vulnerabilities of the pinned packages, from PyPI's own database, by pip-audit.

Exit code 1 where one is known and not listed in ACCEPTED; 0 where none is, and also where the database cannot be asked:
then it says so, because "not asked" is no finding and no clean bill either. ruff's security rules are part of
`make lint`; SECURITY.md says what both are for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

PINNED = Path(__file__).resolve().parents[1] / "requirements" / "tested.txt"
PROBE = "https://pypi.org/pypi/pip/24.0/json"  # mirrors have no such pages, and a hundred questions tell no more
PATIENCE_SECONDS = 10
# Identifier of a vulnerability -> why it does not concern us. SECURITY.md explains each.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    """Runs the audit; returns the exit code."""
    reason = why_unreachable(PROBE)
    if reason:
        return say(f"NOT AUDITED: PyPI's database of vulnerabilities cannot be asked ({reason})")
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service=pypi", f"--requirement={PINNED}",
               "--no-deps",
               "--disable-pip", "--format=json", "--progress-spinner=off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  fixed words
    return judge(done.stdout, done.stderr, pinned_names(PINNED.read_text(encoding="utf-8")))


def judge(report: str, complaint: str, pinned: Sequence[str]) -> int:
    """Says what pip-audit found; returns the exit code.

    Args:
        report: its JSON, on stdout.
        complaint: what it wrote to stderr.
        pinned: packages that it was asked about.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (complaint.strip().splitlines() or ["no output"])[-1]
        return say(f"NOT AUDITED: pip-audit gave no report ({last})")
    asked = [package for package in packages if "vulns" in package]
    skipped = sorted(set(pinned) - {normalised(package["name"]) for package in asked})
    known = [(package, vulnerability) for package in asked for vulnerability in package["vulns"]]
    for package, vulnerability in known:
        names = {vulnerability["id"], *vulnerability.get("aliases", ())}
        accepted = next((ACCEPTED[name] for name in names if name in ACCEPTED), None)
        mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        verdict = f"accepted: {accepted}" if accepted else f"mended in {mended}"
        say(f"{package['name']} {package['version']}: {vulnerability['id']} ({verdict})")
    open_ones = [entry for entry in known if not {entry[1]["id"], *entry[1].get("aliases", ())} & ACCEPTED.keys()]
    if not asked:
        return say(f"NOT AUDITED: the database knows none of the {len(pinned)} packages")
    if skipped:
        say(f"not audited, unknown to the database: {', '.join(skipped)}")
    say(f"audited {len(asked)} of {len(pinned)} pinned packages: {len(open_ones)} vulnerabilities")
    return 1 if open_ones else 0


def pinned_names(requirements: str) -> list[str]:
    """Normalised names of the packages of a requirements file, each once."""
    lines = (re.match(r"([A-Za-z0-9][\w.-]*)\s*==", line) for line in requirements.splitlines())
    return sorted({normalised(line[1]) for line in lines if line})


def normalised(name: str) -> str:
    """A name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def why_unreachable(address: str) -> str | None:
    """Why the database does not answer; None if it does."""
    try:
        urllib.request.urlopen(address, timeout=PATIENCE_SECONDS).close()  # noqa: S310  a fixed https address
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP {error.code} from {address}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None


def say(line: str) -> int:
    """Writes a line; returns 0."""
    sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
